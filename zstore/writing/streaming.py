"""Merging runs of any size with little memory: they are read piece by piece along the keys, and the result is written as it
comes. Column by column: each column is a pass of its own over the same order, which is cheaper than to keep the order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from zstore._typing import Array
from zstore.errors import Corrupt
from zstore.format.checksum import crc32c
from zstore.format.layout import run_name
from zstore.format.run import MAGIC, Entries, RunHeader, bytes_of, concat, parse_end, run_end
from zstore.format.run_blocks import BlockSums
from zstore.storage.base import Growing, Storage

STEP = 2**12                # entries between two keys that a source knows by heart
READ = 2**20
COLUMNS = {"key": ("<u8", 0), "address": ("<i8", 8), "epoch": ("<i4", 16), "check": ("<u4", 20)}


class Stopped(OSError):
    """The merge was given up."""


class Source:
    """A run that is read in pieces; its bytes are not mapped, so that they are not this process's memory."""

    def __init__(self, storage: Storage, run: str) -> None:
        self.name = run_name(run)
        try:
            self._handle = storage.open(self.name)
        except FileNotFoundError:
            raise Corrupt(self.name, "the run is missing") from None
        self.header = parse_end(self._handle.read, self._handle.size, self.name)[0]
        self.marks = np.concatenate([self._column("key", at, at + 1) for at in range(0, self.header.rows, STEP)]
                                    or [np.zeros(0, np.uint64)])

    def __len__(self) -> int:
        return self.header.rows

    def check(self, go_on: Callable[[], None]) -> None:
        """Corrupt unless the whole run has its checksum."""
        crc, size = 0, self._handle.size
        for at in range(0, size - 4, READ):
            go_on()
            crc = crc32c(self._handle.read(at, min(READ, size - 4 - at)), crc)
        if self._handle.read(size - 4, 4) != crc.to_bytes(4, "little"):
            raise Corrupt(self.name, "the run fails its CRC32C")

    def entries(self, low: int, high: int, columns: tuple[str, ...] = ("key", "check", "epoch", "address")) -> Entries:
        """``[low, high)``; columns that are not asked for are zeros."""
        def column(name: str, dtype: Any) -> Array:
            if name in columns and (name != "check" or self.header.strings):
                return self._column(name, low, high)
            return np.zeros(high - low, dtype)
        return Entries(column("key", np.uint64), column("check", np.uint32), column("epoch", np.int32),
                       column("address", np.int64))

    def places(self, keys: Array) -> list[int]:
        """Of each of these keys, in ascending order, how many of the run's lie below it."""
        found = []
        for key, block in zip(keys, np.searchsorted(self.marks, keys, "left").tolist(), strict=True):
            low = max(block - 1, 0) * STEP
            found.append(low + int(np.searchsorted(self._column("key", low, min(low + STEP, len(self))), key, "left")))
        return found

    def close(self) -> None:
        self._handle.close()

    def _column(self, name: str, low: int, high: int) -> Array:
        dtype, before = COLUMNS[name]
        width = np.dtype(dtype).itemsize
        data = self._handle.read(len(MAGIC) + before * len(self) + low * width, (high - low) * width)
        return np.frombuffer(data, dtype)


def write_merged(storage: Storage, sources: list[Source], header: RunHeader, run: str, go_on: Callable[[], None]) -> bool:
    """Write the run of all these under this name, durable once its folder is synced. False where the storage takes an object
    as a whole only. ``go_on`` is asked at every piece and may raise."""
    growing = storage.begin(f"{header.opened:020d}")
    if growing is None:
        return False
    try:
        crc, sums = _write(growing, sources, header, go_on)
    except BaseException:
        growing.discard()
        raise
    storage.replace(growing.finish([run_end(header, crc, sums)]), run_name(run))
    return True


def _write(growing: Growing, sources: list[Source], header: RunHeader, go_on: Callable[[], None]) -> tuple[int, BlockSums]:
    for source in sources:
        source.check(go_on)
    growing.add([MAGIC])
    crc, sums, pieces = crc32c(MAGIC), BlockSums(), cut(sources)
    sums.add(MAGIC)
    for column in ("key", "address", "epoch", *(["check"] if header.strings else [])):
        for part in _sorted(sources, pieces, column, go_on):
            data = bytes_of(part)
            growing.add([data])
            crc = crc32c(data, crc)
            sums.add(data)
    return crc, sums


def cut(sources: list[Source]) -> list[list[int]]:
    """Where each source is cut so that the pieces are small, and no key lies in two of them: a list for each source."""
    marks = np.unique(np.concatenate([source.marks for source in sources]))
    bounds = marks[len(sources)::len(sources)]
    return [[0, *source.places(bounds), len(source)] for source in sources]


def _sorted(sources: list[Source], cuts: list[list[int]], column: str, go_on: Callable[[], None]) -> Iterator[Array]:
    for spans in zip(*map(pairwise, cuts), strict=True):
        go_on()
        keys = [source.entries(low, high, ("key",)) for source, (low, high) in zip(sources, spans, strict=True)]
        whole = concat(keys).key
        order = np.argsort(whole, kind="stable")
        whole = whole[order]
        if column == "key":
            yield whole
        elif (whole[1:] == whole[:-1]).any():
            # Rows of one key: epoch and address say which comes first.
            yield getattr(concat([source.entries(low, high) for source, (low, high) in zip(sources, spans, strict=True)]
                                 ).sorted(), column)
        else:
            yield np.concatenate([getattr(source.entries(low, high, (column,)), column)
                                  for source, (low, high) in zip(sources, spans, strict=True)])[order]
