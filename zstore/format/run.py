"""A run of the key index: keys in order, each with its epoch and address. Immutable; named by the records that use it.

    8 bytes "ZSTRRUN1" · n × u64 key · n × i64 address · n × i32 epoch · n × u32 check (string ids only)
    · header, JSON · u32 header bytes · u32 CRC32C of everything before it

Entries are sorted by (key, epoch, address).
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from zstore._typing import Array, Buffer, Int64s
from zstore.errors import Corrupt
from zstore.format.checksum import MAX_JSON_BYTES, crc32c, parse_json
from zstore.format.extents import MAX_ADDRESS, Extents

MAGIC = b"ZSTRRUN1"
_FOOT = struct.Struct("<II")
MAX_EPOCH_SPANS = 4096


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
    or None where there would be too many."""

    store_id: str
    session: str
    opened: int
    rows: int
    strings: bool
    extents: Extents
    epochs: list[tuple[int, int, int]] | None


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
    document = {"format": "1.0", "store_id": header.store_id, "session": header.session, "opened": header.opened,
                "rows": header.rows, "ids": "string" if header.strings else "int64",
                "extents": [list(pair) for pair in header.extents],
                "epochs": None if header.epochs is None else [list(span) for span in header.epochs]}
    text = json.dumps(document, separators=(",", ":")).encode()
    columns: list[Array] = [entries.key.astype("<u8", copy=False), entries.address.astype("<i8", copy=False),
                             entries.epoch.astype("<i4", copy=False)]
    if header.strings:
        columns.append(entries.check.astype("<u4", copy=False))
    parts: list[Buffer] = [MAGIC, *(_bytes_of(c) for c in columns), text, struct.pack("<I", len(text))]
    crc = 0
    for part in parts:
        crc = crc32c(part, crc)
    return [*parts, struct.pack("<I", crc)]


def _bytes_of(column: Array) -> memoryview:
    return memoryview(cast(bytes, np.ascontiguousarray(column).view(np.uint8)))


def parse_run(data: Buffer, name: str, *, check: bool = True) -> tuple[RunHeader, Entries]:
    """A run from its bytes (the columns are views of them). ``Corrupt`` names what is wrong."""
    view = memoryview(data).cast("B")
    if len(view) < len(MAGIC) + _FOOT.size or bytes(view[:8]) != MAGIC:
        raise Corrupt(name, "this is not a run of the key index")
    text_bytes, crc = _FOOT.unpack(view[-_FOOT.size:])
    if check and crc32c(view[:-4]) != crc:
        raise Corrupt(name, "the run fails its CRC32C", expected=f"{crc:08x}", actual=f"{crc32c(view[:-4]):08x}")
    if text_bytes > MAX_JSON_BYTES:
        raise Corrupt(name, "the run's header is too large", expected=f"<= {MAX_JSON_BYTES} bytes", actual=text_bytes)
    text_at = len(view) - _FOOT.size - text_bytes
    if text_at < len(MAGIC):
        raise Corrupt(name, "the run's header does not fit in it")
    header = _header(parse_json(bytes(view[text_at:-_FOOT.size]), name), name)
    n, width = header.rows, 24 if header.strings else 20
    if len(MAGIC) + n * width != text_at:
        raise Corrupt(name, "the run has another length than its header says", expected=n * width, actual=text_at - 8)
    at = len(MAGIC)
    key = np.frombuffer(view, "<u8", n, at)
    address = np.frombuffer(view, "<i8", n, at + 8 * n)
    epoch = np.frombuffer(view, "<i4", n, at + 16 * n)
    if check and not (key[1:] >= key[:-1]).all():
        # Whoever searches it sizes a table by its first and last key.
        raise Corrupt(name, "the keys of the run are not in order")
    checks = np.frombuffer(view, "<u4", n, at + 20 * n) if header.strings else np.zeros(n, np.uint32)
    return header, Entries(key, checks, epoch, address)


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
        return RunHeader(store_id, session, opened, rows, document["ids"] == "string",
                         Extents.read(document["extents"]), epochs)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Corrupt(name, f"the run's header lacks or misstates a member: {error!r}") from None
