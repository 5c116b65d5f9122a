"""Keys for systems that have row numbers only: ids and epochs are two columns beside the vectors, and a dict is made of them.

It is made for one epoch at its first question, as their users would: {id: row}. It is lost with the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contender import BY_US, OWN, Contender, sync_file_system
from benchmarks.data import Array, Data, dtype_of

ID_BYTES, SCAN_ROWS = 16, 12_800


def fixed(ids: list[str]) -> Array:
    """(n, ID_BYTES) uint8 of ASCII ids, padded with zeros."""
    if ids and max(map(len, ids)) > ID_BYTES:
        raise ValueError(f"an id is longer than {ID_BYTES} bytes")
    return np.array(ids, f"S{ID_BYTES}").view(np.uint8).reshape(-1, ID_BYTES)


def names(ids: Array) -> list[str]:
    """The ids of (n, ID_BYTES) uint8."""
    return np.ascontiguousarray(ids).view(f"S{ID_BYTES}").reshape(-1).astype(str).tolist()


class Keyed(Contender):
    """Reading by key, epoch and scan, over ``columns``, ``read`` and ``gather`` of the system. bfloat16 is kept as the uint16
    of the same bits where the system has no such type."""

    stands_in = True        # for bfloat16

    def __init__(self, place: str, data: Data, storage_options: dict[str, Any] | None = None) -> None:
        super().__init__(place, data, storage_options)
        self.dtype = dtype_of(data.dtype)
        self.stored = np.dtype(np.uint16) if data.dtype == "bfloat16" and self.stands_in else self.dtype
        if self.is_remote and self.durability in (BY_US, OWN):
            self.durability = "the object store's"      # type: ignore[misc]
        self.forget()

    # -- what the system gives ----------------------------------------------------------------------------------------------
    def columns(self) -> tuple[Array, Array]:
        """Ids (n, ID_BYTES) uint8 and epochs (n,) int32 of all rows."""
        raise NotImplementedError

    def read(self, start: int, stop: int) -> Array:
        """The vectors of rows [start, stop)."""
        raise NotImplementedError

    # -- what is made of it ---------------------------------------------------------------------------------------------------
    def forget(self) -> None:
        """Drop what was made of an earlier opening."""
        self._ids: Array = None
        self._spans: dict[int, tuple[int, int]] = {}
        self._places: dict[int, dict[str, int]] = {}

    def span(self, epoch: int) -> tuple[int, int]:
        """Rows [start, stop) of an epoch; a run's epochs lie one behind the other."""
        if self._ids is None:
            self._ids, epochs = self.columns()
            edges = [0, *(np.flatnonzero(np.diff(epochs)) + 1).tolist(), len(epochs)]
            self._spans = {int(epochs[a]): (a, b) for a, b in pairwise(edges) if b > a}
        return self._spans[epoch]

    def places(self, epoch: int) -> dict[str, int]:
        """The row of each id of one epoch."""
        if epoch not in self._places:
            start, stop = self.span(epoch)
            self._places[epoch] = dict(zip(names(self._ids[start:stop]), range(start, stop), strict=True))
        return self._places[epoch]

    def key(self, id: str, epoch: int) -> Array:
        row = self.places(epoch)[id]
        return self.read(row, row + 1)[0]

    def keys(self, ids: list[str], epoch: int) -> Array:
        places = self.places(epoch)
        return self.gather(np.array([places[name] for name in ids]))

    def epoch(self, epoch: int) -> Array:
        return self.read(*self.span(epoch))

    def scan(self) -> Iterator[Array]:
        rows = self.count()
        for start in range(0, rows, SCAN_ROWS):
            yield self.read(start, min(start + SCAN_ROWS, rows))

    # -- for both -----------------------------------------------------------------------------------------------------------
    @property
    def is_remote(self) -> bool:
        return "://" in self.place

    def folder(self) -> None:
        """Make the place, where it is one."""
        if not self.is_remote:
            Path(self.place).mkdir(parents=True)

    def sync(self) -> None:
        """What this contender's ``durability`` asks of the benchmark."""
        if self.durability == BY_US:
            sync_file_system(self.place)

    def given(self, found: Array) -> Array:
        """An array of the stored type as the run's; a view."""
        return found if found.dtype == self.dtype else found.view(self.dtype)
