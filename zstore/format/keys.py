"""Sample ids as bytes and hashes, in bulk: no Python per row.

A string id is kept as vlen-utf8 does: a u32 length, then UTF-8 bytes. A batch of them is one ``Ids`` whose ``body`` is ready
for the chunk encoder. Its hash is 64 bits for the order of the index and 32 more for certainty, both of a store's own seed
(FORMAT.md section "Key hash").
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zstore._typing import Int64s

MAX_ID_BYTES = 1024
_M = 0xD6E8FEB86659FD93
_K = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_SHIFT = np.uint64(32)
_GAP = "\0\0\0\0"         # between strings until they are packed: room for a length
U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class StringIds:
    """A batch of string ids: vlen-utf8 items one behind the other, and where each one's bytes start."""

    body: bytes             # n × (u32 length, bytes)
    starts: Int64s          # (n,) offset in body of each id's first byte
    lengths: Int64s         # (n,) bytes of each id

    def __len__(self) -> int:
        return len(self.starts)

    def slice(self, start: int, stop: int) -> StringIds:
        """Rows ``[start, stop)``; the body is copied."""
        if start >= stop:
            return StringIds(b"", self.starts[:0], self.lengths[:0])
        low = int(self.starts[start]) - 4
        high = int(self.starts[stop - 1] + self.lengths[stop - 1])
        return StringIds(self.body[low:high], self.starts[start:stop] - low, self.lengths[start:stop])

    def to_list(self) -> list[str]:
        return [self.body[s:s + n].decode() for s, n in zip(self.starts.tolist(), self.lengths.tolist(), strict=True)]


class Joined:
    """A batch of strings that is not packed yet: they are known to be good, and where each begins is found out later, for
    many batches at once. Immutable."""

    __slots__ = ("_packed", "rows", "text")

    def __init__(self, text: bytes, rows: int) -> None:
        self.text = text                # UTF-8, four NULs between two strings
        self.rows = rows
        self._packed: StringIds | None = None

    def __len__(self) -> int:
        return self.rows

    @property
    def packed(self) -> StringIds:
        if self._packed is None:
            self._packed = pack_joined([self])
        return self._packed


def join_strings(items: list[str]) -> Joined:
    """The batch of these strings, not packed. Errors as ``pack_strings``.

    A few calls of the interpreter's own: a training step turns the caches over, and each of the dozen calls of numpy that
    packing takes then costs the training thread 10 us."""
    text = _GAP.join(items)
    if text.count("\0") != len(_GAP) * max(len(items) - 1, 0):
        raise ValueError("a string holds a NUL character")
    return Joined(text.encode(), len(items))


def pack_joined(parts: list[Joined]) -> StringIds:
    """One batch of several, in order."""
    parts = [part for part in parts if part.rows]
    return _pack(b"\0\0\0\0".join([b"", *(part.text for part in parts)]), sum(part.rows for part in parts))


def pack_strings(items: list[str]) -> StringIds:
    """The batch of these strings. Raises TypeError or UnicodeEncodeError as ``str.join`` and ``encode`` do, and
    ValueError where one holds a NUL; lengths are the caller's to judge."""
    return _pack((_GAP + _GAP.join(items)).encode(), len(items))


def _pack(text: bytes, rows: int) -> StringIds:
    """``text`` has four NULs before every string; the lengths are written over them, all at once."""
    if not rows:
        return StringIds(b"", np.zeros(0, np.int64), np.zeros(0, np.int64))
    data = np.frombuffer(bytearray(text), np.uint8)
    zeros = np.flatnonzero(data == 0)
    if len(zeros) != len(_GAP) * rows:
        raise ValueError("a string holds a NUL character")
    slots = zeros[::4]
    starts = slots + 4
    lengths = np.diff(slots, append=len(data)) - 4
    as_bytes = lengths.astype("<u4").view(np.uint8).reshape(-1, 4)
    data[slots[:, None] + np.arange(4)] = as_bytes
    return StringIds(data.tobytes(), starts, lengths)


def concat_strings(parts: list[StringIds]) -> StringIds:
    """One batch of several, in order."""
    if len(parts) == 1:
        return parts[0]
    offsets = np.cumsum([0, *(len(part.body) for part in parts[:-1])])
    starts = np.concatenate([part.starts + offset for part, offset in zip(parts, offsets.tolist(), strict=True)])
    return StringIds(b"".join([part.body for part in parts]), starts, np.concatenate([part.lengths for part in parts]))


def parse_strings(body: bytes, count: int) -> StringIds:
    """The first ``count`` items of a vlen-utf8 body (without its u32 count). ValueError when they run past the end.

    A loop per item: for a chunk at a time, off the append path."""
    starts = np.empty(count, np.int64)
    lengths = np.empty(count, np.int64)
    at = 0
    for row in range(count):
        if at + 4 > len(body):
            raise ValueError("a string chunk ends inside an item")
        length = struct.unpack_from("<I", body, at)[0]
        starts[row], lengths[row] = at + 4, length
        at += 4 + length
    if at > len(body):
        raise ValueError("a string chunk ends inside an item")
    return StringIds(body[:at], starts, lengths)


def hash_strings(ids: StringIds, seed: int) -> tuple[U64, npt.NDArray[np.uint32]]:
    """``(key, check)`` of each id: uint64 and uint32 arrays, by the rule in FORMAT.md."""
    return _hashed(ids.body + b"\0" * 8, ids.starts, ids.lengths, seed)


def hash_list(items: list[str], seed: int) -> tuple[U64, npt.NDArray[np.uint32]] | None:
    """The same of strings that nobody needs packed. None where one of them is no id, or there are none."""
    try:
        text = "\0".join(items).encode() + b"\0" * 8
    except UnicodeEncodeError:
        return None
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == 0)[:-7]
    if len(ends) != len(items):
        return None
    starts = np.zeros_like(ends)
    np.add(ends[:-1], 1, out=starts[1:])
    lengths = ends - starts
    if lengths.min() == 0 or lengths.max() > MAX_ID_BYTES:
        return None
    return _hashed(text, starts, lengths, seed)


def _hashed(data: bytes, starts: Int64s, lengths: Int64s, seed: int) -> tuple[U64, npt.NDArray[np.uint32]]:
    """``data``: with eight bytes to spare behind the last id."""
    a = lengths.astype(np.uint64)
    b = a + np.uint64((seed * _K) & _MASK)
    a *= np.uint64(_K)
    a ^= np.uint64(seed)
    words = np.ndarray((max(len(data) - 7, 0),), "<u8", data, strides=(1,))
    shortest, longest = (int(lengths.min()), int(lengths.max())) if len(lengths) else (0, 0)
    for at in range(0, longest, 8):
        if at < shortest:
            a, b = _fold(a, b, words, starts, lengths, at, at + 8 > shortest)
        else:
            live = np.flatnonzero(lengths > at)
            a[live], b[live] = _fold(a[live], b[live], words, starts[live], lengths[live], at, True)
    return _mix(a), (_mix(b) >> _SHIFT).astype(np.uint32)


def _fold(a: U64, b: U64, words: U64, starts: Int64s, lengths: Int64s, at: int, cut: bool) -> tuple[U64, U64]:
    """Both states with the eight bytes at ``at`` of each id; ``cut``: some ids end among them."""
    value = words[starts + at]
    if cut:
        value &= np.uint64(_MASK) >> (np.maximum(at + 8 - lengths, 0) << 3).view(np.uint64)
    a ^= value
    b ^= value
    b *= np.uint64(_K)
    b ^= b >> np.uint64(29)
    return _mix(a), b


def hash_string(item: bytes, seed: int) -> tuple[int, int]:
    """``(key, check)`` of one id; the same numbers as ``hash_strings``, without arrays."""
    a = (len(item) * _K & _MASK) ^ seed
    b = (len(item) + seed * _K) & _MASK
    for at in range(0, len(item), 8):
        value = int.from_bytes(item[at:at + 8], "little")
        a = _mix_int(a ^ value)
        b = (b ^ value) * _K & _MASK
        b ^= b >> 29
    return _mix_int(a), _mix_int(b) >> 32


def hash_ints(ids: Int64s) -> U64:
    """An int64 id is its own key, exact: its bits with the sign flipped, so that keys keep the order of the ids."""
    return ids.astype(np.int64).view(np.uint64) ^ np.uint64(1 << 63)


def seed_of(store_id: str) -> int:
    """The hash seed of a store: the first 8 bytes of its id, little endian."""
    return int.from_bytes(bytes.fromhex(store_id)[:8], "little")


def _mix(x: U64) -> U64:
    x = x ^ (x >> _SHIFT)
    x *= np.uint64(_M)
    x ^= x >> _SHIFT
    x *= np.uint64(_M)
    x ^= x >> _SHIFT
    return x


def _mix_int(x: int) -> int:
    x ^= x >> 32
    x = x * _M & _MASK
    x ^= x >> 32
    x = x * _M & _MASK
    return x ^ (x >> 32)
