"""np.memmap: a file of known size, with a dict from key to row beside it. What one process with one disk would write by hand.

It has no ids, epochs or commits of its own: the dict is made at open from ids kept as text, and is lost rows when it tears.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.contender import Contender
from benchmarks.data import Array, dtype_of

SCAN_ROWS = 16_384


class Memmap(Contender):
    """``commit`` is ``flush``, msync of the whole mapping, and an fsync of the ids."""

    durability = "msync of the vectors, fsync of the ids"

    def create(self) -> None:
        Path(self.place).mkdir(parents=True)
        self._map = np.memmap(f"{self.place}/vectors", dtype_of(self.data.dtype), "w+", shape=(self.data.rows, self.data.dim))
        self._ids = open(f"{self.place}/keys", "w")     # noqa: SIM115 - closed by finish
        self._rows = 0

    def append(self, ids: list[str], epoch: int, vectors: Array) -> None:
        self._map[self._rows:self._rows + len(vectors)] = vectors
        self._ids.write("".join(f"{key}:{epoch}\n" for key in ids))
        self._rows += len(vectors)

    def commit(self) -> None:
        self._map.flush()
        self._ids.flush()
        os.fsync(self._ids.fileno())

    def finish(self) -> None:
        self.commit()
        self._ids.close()

    def resume(self, rows: int) -> None:
        self._map = np.memmap(f"{self.place}/vectors", dtype_of(self.data.dtype), "r+", shape=(self.data.rows, self.data.dim))
        lines = Path(f"{self.place}/keys").read_text().splitlines(keepends=True)
        self._ids = open(f"{self.place}/keys", "w")     # noqa: SIM115
        self._ids.write("".join(lines[:rows]))
        self._rows = rows

    def open(self) -> None:
        self._map = np.memmap(f"{self.place}/vectors", dtype_of(self.data.dtype), "r", shape=(self.data.rows, self.data.dim))
        self._place: dict[str, int] | None = None

    def count(self) -> int:
        with open(f"{self.place}/keys") as lines:
            return sum(1 for _ in lines)

    def gather(self, rows: Array) -> Array:
        return self._map[rows]

    def _places(self) -> dict[str, int]:
        if self._place is None:
            with open(f"{self.place}/keys") as lines:
                self._place = {line.rstrip("\n"): row for row, line in enumerate(lines)}
        return self._place

    def key(self, id: str, epoch: int) -> Array:
        return np.array(self._map[self._places()[f"{id}:{epoch}"]])

    def keys(self, ids: list[str], epoch: int) -> Array:
        places = self._places()
        return self._map[[places[f"{key}:{epoch}"] for key in ids]]

    def scan(self) -> Iterator[Array]:
        for start in range(0, len(self._map), SCAN_ROWS):
            yield self._map[start:start + SCAN_ROWS]

    def epoch(self, epoch: int) -> Array:
        start = epoch * self.data.per_epoch         # by the rule of the data: a file has no epochs
        return self._map[start:start + self.data.per_epoch]
