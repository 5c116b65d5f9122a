"""The end of every shard object: our trailer, then Zarr's shard index. One suffix read brings both.

    body: chunks, and superseded partial chunks        whatever came before
    trailer, 136 bytes and 4 per chunk of a fixed shard
    index: per chunk u64 offset, u64 length (both 2^64-1 for a chunk never written), u32 CRC32C
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zstore._typing import Buffer, Int64s
from zstore.errors import Corrupt
from zstore.format.checksum import crc32c

MAGIC = b"ZSTRSHD1"
EMPTY = 2**64 - 1
_FIXED = struct.Struct("<8s16s16s64sQQQII")     # magic, store, session, path, shard, rows, body bytes, body crc, chunks
_CRC = struct.Struct("<I")
U64s = npt.NDArray[np.uint64]
U32s = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class ShardEnd:
    """What the end of a shard object says. ``offsets`` and ``lengths`` are uint64, one entry per chunk of the shard;
    ``chunk_crcs`` is uint32, the CRC32C of each chunk's covered rows (fixed shards only, else empty)."""

    store_id: str
    session: str            # the opening commit's id
    path: str
    shard: int
    rows: int               # rows covered, from the shard's first
    body_bytes: int
    body_crc: int           # see ``seal_places``
    offsets: U64s
    lengths: U64s
    chunk_crcs: U32s

    def to_bytes(self) -> bytes:
        path = self.path.encode()
        head = _FIXED.pack(MAGIC, bytes.fromhex(self.store_id), bytes.fromhex(self.session), path, self.shard, self.rows,
                           self.body_bytes, self.body_crc, len(self.offsets))
        trailer = head + self.chunk_crcs.astype("<u4").tobytes()
        index = np.stack([self.offsets, self.lengths], axis=1).astype("<u8").tobytes()
        return trailer + _CRC.pack(crc32c(trailer)) + index + _CRC.pack(crc32c(index))


def seal_places(offsets: U64s, lengths: U64s) -> Int64s:
    """Where the last four bytes of every chunk that the index names lie in the body, in row order; (4 n,) int64.

    Compressed and string chunks end with their own CRC32C, and a CRC32C over bytes that do so is a constant: it says
    nothing of what they hold, or in which order. So the body's checksum goes on over these bytes, which do."""
    here = offsets != EMPTY
    ends = (offsets[here] + lengths[here]).astype(np.int64)
    return np.asarray(ends[ends >= 4, None] + np.arange(-4, 0)).reshape(-1)


def body_checksum(body: Buffer, end: ShardEnd) -> int:
    """What ``end.body_crc`` should be for this body."""
    crc = crc32c(body)
    if len(end.chunk_crcs):
        return crc
    return crc32c(np.frombuffer(body, np.uint8)[seal_places(end.offsets, end.lengths)].tobytes(), crc)


def end_bytes(chunks: int, fixed: bool) -> int:
    """Bytes of trailer and index of a shard with this many chunks."""
    return _FIXED.size + (4 * chunks if fixed else 0) + 4 + 16 * chunks + 4


def parse_end(data: bytes, size: int, chunks: int, fixed: bool, name: str) -> ShardEnd:
    """The end of a shard object of ``size`` bytes from its last ``end_bytes`` bytes. ``Corrupt`` names what is wrong."""
    wanted = end_bytes(chunks, fixed)
    if len(data) != wanted:
        raise Corrupt(name, "the shard is cut short", expected=f">= {wanted} bytes", actual=size)
    index_at = wanted - 16 * chunks - 4
    trailer, index = data[:index_at - 4], data[index_at:-4]
    _check(data[index_at - 4:index_at], trailer, name, "the shard's trailer", size - wanted)
    _check(data[-4:], index, name, "the shard's index", size - wanted + index_at)
    magic, store, session, path, shard, rows, body, crc, count = _FIXED.unpack_from(trailer)
    if magic != MAGIC or count != chunks:
        raise Corrupt(name, "the shard's trailer is not of this field's geometry", offset=size - wanted,
                      expected=chunks, actual=count)
    if body != size - wanted:
        raise Corrupt(name, "the shard has another length than its trailer says", expected=body + wanted, actual=size)
    table = np.frombuffer(index, "<u8").reshape(-1, 2)
    offsets, lengths = table[:, 0].copy(), table[:, 1].copy()
    _check_bounds(offsets, lengths, body, name)
    crcs = np.frombuffer(trailer[_FIXED.size:], "<u4").copy()
    return ShardEnd(store.hex(), session.hex(), path.rstrip(b"\0").decode("ascii", "replace"), shard, rows, body, crc,
                    offsets, lengths, crcs)


def _check(stored: bytes, data: bytes, name: str, what: str, offset: int) -> None:
    expected, actual = _CRC.unpack(stored)[0], crc32c(data)
    if expected != actual:
        raise Corrupt(name, f"{what} fails its CRC32C", offset=offset, expected=f"{expected:08x}", actual=f"{actual:08x}")


def _check_bounds(offsets: U64s, lengths: U64s, body: int, name: str) -> None:
    here = offsets != EMPTY
    inside = (offsets[here] <= body) & (lengths[here] <= body)
    if not inside.all() or (offsets[here] + lengths[here] > body).any():
        raise Corrupt(name, "the shard's index points outside of its body", expected=f"<= {body}")


def identify(end: ShardEnd, store_id: str, path: str, shard: int, name: str) -> None:
    """``Corrupt`` unless the object is this store's, this field's and this shard's: a swapped object is found."""
    for what, expected, actual in (("store", store_id, end.store_id), ("field", path, end.path),
                                   ("shard", shard, end.shard)):
        if expected != actual:
            raise Corrupt(name, f"the object belongs to another {what}", expected=expected, actual=actual)
