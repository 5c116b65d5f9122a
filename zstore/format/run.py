"""A run of the key index: keys in order, each with its epoch and address. Immutable; named by the records that use it.

    8 bytes "ZSTRRUN1" · n × u64 key · n × i64 address · n × i32 epoch · n × u32 check (string ids only)
    · header, sealed JSON · u32 header bytes · u32 CRC32C of everything before it

Entries are sorted by (key, epoch, address). The header is sealed by itself: who asks only what a run covers reads its end. It
holds a checksum of each block of the columns: who looks up a few keys checks a few blocks.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from zstore._typing import Array, Buffer, Int64s
from zstore.errors import Corrupt
from zstore.format import run_blocks
from zstore.format.checksum import MAX_JSON_BYTES, crc32c, open_json, parse_json, seal_json
from zstore.format.extents import MAX_ADDRESS, Extents
from zstore.format.run_blocks import Blocks, BlockSums

MAGIC = b"ZSTRRUN1"
_FOOT = struct.Struct("<II")
END_BYTES = 2**14           # most headers fit
MAX_EPOCH_SPANS = 2**14
ORDER_ROWS = 2**20


@dataclass(frozen=True)
class Entries:
    """Columns of one length: key uint64, check uint32 (zeros for integer ids), epoch int32, address int64."""

    key: npt.NDArray[np.uint64]
    check: npt.NDArray[np.uint32]
    epoch: npt.NDArray[np.int32]
    address: Int64s

    def __len__(self) -> int:
        return len(self.key)

    def take(self, rows: Any) -> Entries:
        return Entries(self.key[rows], self.check[rows], self.epoch[rows], self.address[rows])

    def sorted(self) -> Entries:
        """By (key, epoch, address); addresses must come in ascending, or be sorted already."""
        order = np.argsort(self.key, kind="stable")
        out = self.take(order)
        same = out.key[1:] == out.key[:-1]
        disordered = same & ((out.epoch[1:] < out.epoch[:-1]) |
                             ((out.epoch[1:] == out.epoch[:-1]) & (out.address[1:] < out.address[:-1])))
        if disordered.any():
            out = self.take(np.lexsort((self.address, self.epoch, self.key)))
        return out


def concat(parts: list[Entries]) -> Entries:
    return Entries(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("key", "check", "epoch", "address")))


@dataclass(frozen=True)
class RunHeader:
    """``extents``: the addresses that the run covers. ``epochs``: spans ``(epoch, first address, count)``, all of them,
    or None where there would be too many. ``blocks``: the checksums of the columns as they are stored."""

    store_id: str
    session: str
    opened: int
    rows: int
    strings: bool
    extents: Extents
    epochs: list[tuple[int, int, int]] | None
    blocks: bytes = field(default=b"", compare=False)

    @property
    def row_bytes(self) -> int:
        """Of one entry, all columns together."""
        return 24 if self.strings else 20


def epoch_spans(epochs: npt.NDArray[np.int32], addresses: Int64s) -> list[tuple[int, int, int]] | None:
    """Runs of equal epoch over ascending addresses; None above the bound."""
    if not len(addresses):
        return []
    breaks = np.flatnonzero((np.diff(epochs) != 0) | (np.diff(addresses) != 1)) + 1
    if len(breaks) >= MAX_EPOCH_SPANS:
        return None
    firsts = np.concatenate([[0], breaks])
    counts = np.diff(np.concatenate([firsts, [len(addresses)]]))
    return list(zip(epochs[firsts].tolist(), addresses[firsts].tolist(), counts.tolist(), strict=True))


def run_parts(header: RunHeader, entries: Entries) -> list[Buffer]:
    """The run's bytes, as parts to write one behind the other."""
    columns: list[Array] = [entries.key.astype("<u8", copy=False), entries.address.astype("<i8", copy=False),
                             entries.epoch.astype("<i4", copy=False)]
    if header.strings:
        columns.append(entries.check.astype("<u4", copy=False))
    parts: list[Buffer] = [MAGIC, *map(bytes_of, columns)]
    crc, sums = 0, BlockSums()
    for part in parts:
        crc = crc32c(part, crc)
        sums.add(part)
    return [*parts, run_end(header, crc, sums)]


def run_end(header: RunHeader, crc: int, sums: BlockSums) -> bytes:
    """What stands behind the columns; ``crc`` and ``sums``: those of everything before it."""
    text = seal_json({
        "format": "1.0", "store_id": header.store_id, "session": header.session, "opened": header.opened, "rows": header.rows,
        "ids": "string" if header.strings else "int64", "extents": header.extents.listed(),
        "epochs": None if header.epochs is None else [list(span) for span in header.epochs],
        "blocks": run_blocks.written(sums.listed())})
    end = text + struct.pack("<I", len(text))
    return end + struct.pack("<I", crc32c(end, crc))


def bytes_of(column: Array) -> memoryview:
    """The column's bytes, a view of them where it is contiguous."""
    return memoryview(cast(bytes, np.ascontiguousarray(column).view(np.uint8)))


def parse_run(data: Buffer, name: str, *, check: bool = True) -> tuple[RunHeader, Entries]:
    """A run from its bytes (the columns are views of them). ``Corrupt`` names what is wrong."""
    view = memoryview(data).cast("B")
    if check:
        _check_whole(view, name)
    header, entries, _ = _parsed(view, name)
    if check:
        if header.blocks:
            Blocks(name, view[:_columns_end(header)], header.blocks).check_all()
        check_order(entries, name)
    return header, entries


def open_run(data: Buffer, name: str) -> tuple[RunHeader, Entries, Blocks | None]:
    """The same with the columns not checked yet, block by block on the way; None where they all were: the run is of those
    that hold no checksums of blocks."""
    view = memoryview(data).cast("B")
    header, entries, sealed = _parsed(view, name)
    if sealed and header.blocks:
        return header, entries, Blocks(name, view[:_columns_end(header)], header.blocks)
    return *parse_run(data, name), None


def _parsed(view: memoryview, name: str) -> tuple[RunHeader, Entries, bool]:
    if len(view) < len(MAGIC) + _FOOT.size or bytes(view[:8]) != MAGIC:
        raise Corrupt(name, "this is not a run of the key index")
    header, sealed = parse_end(lambda at, size: bytes(view[at:at + size]), len(view), name)
    n = header.rows
    at = len(MAGIC)
    key = np.frombuffer(view, "<u8", n, at)
    address = np.frombuffer(view, "<i8", n, at + 8 * n)
    epoch = np.frombuffer(view, "<i4", n, at + 16 * n)
    checks = np.frombuffer(view, "<u4", n, at + 20 * n) if header.strings else np.zeros(n, np.uint32)
    return header, Entries(key, checks, epoch, address), sealed


def _check_whole(view: memoryview, name: str) -> None:
    if len(view) < len(MAGIC) + _FOOT.size or bytes(view[:8]) != MAGIC:
        raise Corrupt(name, "this is not a run of the key index")
    crc, actual = _FOOT.unpack(view[-_FOOT.size:])[1], crc32c(view[:-4])
    if actual != crc:
        raise Corrupt(name, "the run fails its CRC32C", expected=f"{crc:08x}", actual=f"{actual:08x}")


def _columns_end(header: RunHeader) -> int:
    return len(MAGIC) + header.rows * header.row_bytes


def parse_end(read: Callable[[int, int], bytes], size: int, name: str) -> tuple[RunHeader, bool]:
    """The header of a run of ``size`` bytes, of which only the end is read, and whether it is sealed by itself: one that is
    not (of release 0.1) is to be trusted only where the whole run was checked. ``Corrupt`` names what is wrong."""
    if size < len(MAGIC) + _FOOT.size:
        raise Corrupt(name, "this is not a run of the key index")
    end = read(max(size - END_BYTES, 0), END_BYTES)
    if len(end) != min(size, END_BYTES):
        raise Corrupt(name, "the run is shorter than it was", expected=size, actual=max(size - END_BYTES, 0) + len(end))
    text_bytes, _ = _FOOT.unpack(end[-_FOOT.size:])
    if text_bytes > MAX_JSON_BYTES:
        raise Corrupt(name, "the run's header is too large", expected=f"<= {MAX_JSON_BYTES} bytes", actual=text_bytes)
    text_at = size - _FOOT.size - text_bytes
    if text_at < len(MAGIC):
        raise Corrupt(name, "the run's header does not fit in it")
    text = end[-text_bytes - _FOOT.size:-_FOOT.size] if text_bytes + _FOOT.size <= len(end) else read(text_at, text_bytes)
    sealed = text.endswith(b"\n")
    header = _header(open_json(text, name) if sealed else parse_json(text, name), name)
    if len(MAGIC) + header.rows * header.row_bytes != text_at:
        raise Corrupt(name, "the run has another length than its header says", expected=header.rows * header.row_bytes,
                      actual=text_at - 8)
    return header, sealed


def check_order(entries: Entries, name: str) -> None:
    """Corrupt unless the keys ascend: whoever searches them sizes a table by the first and the last."""
    if not _ascends(entries.key):
        raise Corrupt(name, "the keys of the run are not in order")


def _ascends(key: npt.NDArray[np.uint64]) -> bool:
    # Piece by piece: of a large run, what is compared at once would be as large as a column.
    return all((key[at + 1:at + ORDER_ROWS + 1] >= key[at:at + ORDER_ROWS][:len(key) - at - 1]).all()
               for at in range(0, len(key), ORDER_ROWS))


def _header(document: Any, name: str) -> RunHeader:
    try:
        store_id, session, spans = document["store_id"], document["session"], document["epochs"]
        if not isinstance(store_id, str) or not isinstance(session, str):
            raise ValueError("store_id or session")
        epochs = None if spans is None else [(int(e), int(a), int(c)) for e, a, c in spans]
        if epochs and not all(0 <= e < 2**31 and min(a, c) >= 0 and a + c <= MAX_ADDRESS for e, a, c in epochs):
            raise ValueError("epochs")
        opened, rows = document["opened"], document["rows"]
        if type(opened) is not int or type(rows) is not int or min(opened, rows) < 0:
            raise ValueError("opened or rows")
        strings = document["ids"] == "string"
        blocks = run_blocks.read(document.get("blocks"), len(MAGIC) + rows * (24 if strings else 20))
        return RunHeader(store_id, session, opened, rows, strings, Extents.read(document["extents"]), epochs, blocks)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Corrupt(name, f"the run's header lacks or misstates a member: {error!r}") from None
