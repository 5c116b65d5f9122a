"""Which source row stands where in a compacted store, found in bounded memory whatever the store's size.

Only ids and epochs are read. They are spread over temporary files by ranges of ids, and each range is sorted by itself: by
id, epoch and address. There equal keys are neighbours, and of each only the highest address stays. The order by epoch, and
the source's own order, follow from that list by putting every row straight into its place.
"""

from __future__ import annotations

import errno
import os
import tempfile
from bisect import bisect_right
from typing import Any

import numpy as np
import numpy.typing as npt

from zstore._typing import Array, Int64s
from zstore.format.extents import Extents
from zstore.format.schema import EPOCH, IDS
from zstore.maintenance.compact_source import Source
from zstore.rows import Rows

RANGE_ROWS = 2**18          # about as many rows are sorted at once: 10 MB, and 20 MB more where ids are strings
MAX_RANGES = 512
SCAN_ROWS = 2**16
SAMPLES = 64                # ids looked at per range, to find where ranges end
BYTES_PER_ROW = 40          # of temporary files, about; the strings themselves come on top
_TEXT = np.dtypes.StringDType()


class Plan:
    """The source address of every row of the new store."""

    def __init__(self, extents: Extents | None, listed: Listed | None = None) -> None:
        self._extents, self._listed = extents, listed

    def __len__(self) -> int:
        return len(self._extents) if self._extents is not None else len(self._listed or ())

    def rows(self, start: int, stop: int) -> Rows:
        """The source rows that become ``[start, stop)``."""
        if self._extents is not None:
            return Rows.of(self._extents.addresses(np.arange(start, stop, dtype=np.int64)))
        assert self._listed is not None
        return Rows.of(self._listed.read(start, stop))


def plan_rows(source: Source, order: str | None) -> Plan:
    """The source's rows, one per key. ``order``: None keeps the one they have, "epoch" is by epoch and then id, "id" by id and
    then epoch."""
    extents = source.extents
    if order is None and source.distinct:
        return Plan(extents)
    try:
        chosen, at = _by_id(source)
        if order == "id":
            return Plan(None, chosen)
        return Plan(None, _by_epoch(chosen, at) if order == "epoch" else _as_before(chosen, extents))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        wanted = BYTES_PER_ROW * len(extents)
        raise OSError(errno.ENOSPC, f"putting {len(extents):,} rows in order needs about {wanted:,} bytes of temporary files, "
                      f"and {tempfile.gettempdir()} is full; set TMPDIR to a folder with room") from None


class _Scratch:
    """A temporary file that has no name, so that no crash leaves it behind. Safe among threads."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile(buffering=0)     # noqa: SIM115  (closed with this object)

    def __del__(self) -> None:
        self.file.close()

    def write(self, offset: int, data: bytes) -> int:
        """All of the data at this place; gives where it ends."""
        view = memoryview(data)
        while len(view):
            done = os.pwrite(self.file.fileno(), view, offset)
            view, offset = view[done:], offset + done
        return offset

    def read(self, offset: int, length: int) -> bytes:
        parts = []
        while length:
            part = os.pread(self.file.fileno(), length, offset)
            if not part:
                raise OSError("a temporary file is shorter than what was written to it")
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return b"".join(parts)


class Listed:
    """A growing list of numbers in a temporary file."""

    def __init__(self, dtype: Any, count: int = 0) -> None:
        self._dtype, self._count, self._scratch = np.dtype(dtype), count, _Scratch()
        self._scratch.file.truncate(count * self._dtype.itemsize)

    def __len__(self) -> int:
        return self._count

    def append(self, values: Array) -> None:
        """Put these at the end."""
        self._scratch.write(self._count * self._dtype.itemsize, values.astype(self._dtype, copy=False).tobytes())
        self._count += len(values)

    def read(self, start: int, stop: int) -> Array:
        """The numbers ``[start, stop)``; a new array. Safe among threads."""
        size = self._dtype.itemsize
        return np.frombuffer(self._scratch.read(start * size, (stop - start) * size), self._dtype)

    def put(self, places: Int64s, values: Any) -> None:
        """Write each value (or one, everywhere) to its place; the list has that length already."""
        if len(places):
            table = np.memmap(self._scratch.file, self._dtype, "r+", shape=(self._count,))
            table[places] = values


def _by_id(source: Source) -> tuple[Listed, Listed]:
    """Address and epoch of one row per key, sorted by id and then epoch."""
    extents = source.extents
    spread = _Ranges(_borders(source), source.schema.ids_are_strings)
    for start in range(0, len(extents), SCAN_ROWS):
        addresses = extents.addresses(np.arange(start, min(start + SCAN_ROWS, len(extents)), dtype=np.int64))
        rows = Rows.of(addresses)
        spread.add(source.gather(IDS, rows), source.gather(EPOCH, rows), addresses)
    chosen, at = Listed(np.int64), Listed(np.int32)
    for number in range(spread.count):
        names, when, where = spread.read(number)
        # Addresses ascend already, and each sort keeps the order of the one before.
        by = np.argsort(when, kind="stable")
        by = by[np.argsort(names[by], kind="stable")]
        names, when, where = names[by], when[by], where[by]
        highest = np.append((names[1:] != names[:-1]) | (when[1:] != when[:-1]), True)[:len(where)]
        chosen.append(where[highest])
        at.append(when[highest])
    return chosen, at


def _by_epoch(chosen: Listed, at: Listed) -> Listed:
    """The list in the order of epochs; within one it stays as it is."""
    known, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for start in range(0, len(at), RANGE_ROWS):
        some, many = np.unique(at.read(start, min(start + RANGE_ROWS, len(at))), return_counts=True)
        every, where = np.unique(np.concatenate([known, some]), return_inverse=True)
        known, counts = every, np.bincount(where, np.concatenate([counts, many]), len(every)).astype(np.int64)
    free = np.cumsum(counts) - counts           # the next place of each epoch
    out = Listed(np.int64, len(chosen))
    for start in range(0, len(at), RANGE_ROWS):
        stop = min(start + RANGE_ROWS, len(at))
        epoch = np.searchsorted(known, at.read(start, stop))
        by = np.argsort(epoch, kind="stable")
        epoch = epoch[by]
        first = np.searchsorted(epoch, epoch)
        out.put(free[epoch] + np.arange(len(epoch)) - first, chosen.read(start, stop)[by])
        free += np.bincount(epoch, minlength=len(free))
    return out


def _as_before(chosen: Listed, extents: Extents) -> Listed:
    """The list in the order of addresses."""
    stays = Listed(np.bool_, len(extents))
    for start in range(0, len(chosen), RANGE_ROWS):
        stays.put(extents.rows(chosen.read(start, min(start + RANGE_ROWS, len(chosen)))), True)
    out = Listed(np.int64)
    for start in range(0, len(extents), RANGE_ROWS):
        stop = min(start + RANGE_ROWS, len(extents))
        out.append(extents.addresses(np.arange(start, stop, dtype=np.int64))[stays.read(start, stop)])
    return out


def _borders(source: Source) -> Array:
    """Ids at which the ranges end, so that each holds about as many rows. Drawn at random: a stride could fall in step with
    the epochs."""
    extents = source.extents
    ranges = min(-(-len(extents) // RANGE_ROWS), MAX_RANGES)
    if ranges <= 1:
        return source.columns[IDS].empty(0)
    drawn = np.random.default_rng(0).integers(0, len(extents), SAMPLES * ranges)
    return np.sort(source.gather(IDS, Rows.of(extents.addresses(np.sort(drawn)))))[SAMPLES::SAMPLES]


class _Ranges:
    """Rows spread over ranges of ids: block by block in one temporary file, within a block range by range."""

    def __init__(self, borders: Array, strings: bool) -> None:
        self.count = len(borders) + 1
        self._borders, self._strings = borders.tolist() if strings else borders, strings
        self._numbers, self._texts = _Scratch(), _Scratch()
        self._dtype = np.dtype([("address", "<i8"), ("epoch", "<i4"), *([] if strings else [("id", "<i8")])])
        self._row, self._byte = 0, 0
        self._rows: list[Int64s] = []           # of each block, where each range begins, and where the last one ends
        self._bytes: list[Int64s] = []

    def add(self, ids: Array, epochs: Array, addresses: Int64s) -> None:
        """One block."""
        # numpy's searchsorted looks for the text of both arrays in the memory of one: right for short strings only.
        number = (np.array([bisect_right(self._borders, one) for one in ids.tolist()]) if self._strings else
                  np.searchsorted(self._borders, ids, side="right"))
        by = np.argsort(number, kind="stable")
        inside = np.searchsorted(number[by], np.arange(self.count + 1))
        table = np.empty(len(ids), self._dtype)
        table["address"], table["epoch"] = addresses[by], epochs[by]
        if self._strings:
            names = ids[by].tolist()            # no id holds a NUL
            pieces = ["\0".join(names[a:b]).encode() for a, b in zip(inside[:-1].tolist(), inside[1:].tolist(), strict=True)]
            self._bytes.append(self._byte + np.cumsum([0, *map(len, pieces)], dtype=np.int64))
            self._byte = self._texts.write(self._byte, b"".join(pieces))
        else:
            table["id"] = ids[by]
        self._numbers.write(self._row * self._dtype.itemsize, table.tobytes())
        self._rows.append(self._row + inside)
        self._row += len(ids)

    def read(self, number: int) -> tuple[Array, npt.NDArray[np.int32], Int64s]:
        """Ids, epochs and addresses of one range, by ascending address."""
        size = self._dtype.itemsize
        parts = [np.frombuffer(self._numbers.read(int(at[number]) * size, int(at[number + 1] - at[number]) * size), self._dtype)
                 for at in self._rows]
        table = np.concatenate(parts) if parts else np.zeros(0, self._dtype)
        if not self._strings:
            return table["id"], table["epoch"], table["address"]
        names: list[str] = []
        for at in self._bytes:
            piece = self._texts.read(int(at[number]), int(at[number + 1] - at[number]))
            names += piece.decode().split("\0") if piece else []
        return np.array(names, _TEXT), table["epoch"], table["address"]
