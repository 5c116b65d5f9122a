"""LMDB: one entry per row under (epoch, id), a transaction per commit, its own fsync.

It has no row numbers: rows are asked for by the keys that they were written under.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from benchmarks.contender import Contender
from benchmarks.data import Array, dtype_of

SCAN_ROWS = 4_096


def key_of(epoch: int, name: str) -> bytes:
    """Big-endian epoch, then the id: keys in order of epochs."""
    return epoch.to_bytes(4, "big") + name.encode()


class LMDB(Contender):
    """``putmulti(append=True)`` while keys rise, reads with ``buffers=True``."""

    _env: Any = None

    def _open(self, readonly: bool) -> None:
        self.close()
        room = 8 * self.data.nbytes + (1 << 30)
        self._env = lmdb.open(self.place, map_size=room, readonly=readonly, lock=not readonly)

    def create(self) -> None:
        Path(self.place).mkdir(parents=True)
        self._open(readonly=False)
        self._begin(b"")

    def _begin(self, last: bytes) -> None:
        self._last, self._transaction = last, self._env.begin(write=True)
        self._cursor = self._transaction.cursor()

    def append(self, ids: list[str], epoch: int, vectors: Array) -> None:
        keys = [key_of(epoch, name) for name in ids]
        rows = np.ascontiguousarray(vectors).view(np.uint8)
        rising = self._last < keys[0] and all(a < b for a, b in pairwise(keys))
        self._cursor.putmulti(zip(keys, rows, strict=True), append=rising)
        self._last = max(keys[-1], self._last)

    def commit(self) -> None:
        self._transaction.commit()
        self._begin(self._last)

    def finish(self) -> None:
        self._transaction.commit()
        self.close()

    def resume(self, rows: int) -> None:
        self._open(readonly=False)
        self._begin(b"")
        for _ in range(self._transaction.stat()["entries"] - rows):
            self._cursor.last()
            self._cursor.delete()
        self._last = bytes(self._cursor.key()) if self._cursor.last() else b""

    # -- reading ----------------------------------------------------------------------------------------------------------
    def open(self) -> None:
        self._open(readonly=True)
        self._read = self._env.begin(buffers=True)

    def count(self) -> int:
        return int(self._read.stat()["entries"])

    def _matrix(self, values: list[Any]) -> Array:
        return np.frombuffer(b"".join(values), dtype_of(self.data.dtype)).reshape(-1, self.data.dim)

    def gather(self, rows: Array) -> Array:
        get, pairs = self._read.get, zip(self.data.epochs(rows).tolist(), self.data.ids(rows), strict=True)
        return self._matrix([get(key_of(epoch, name)) for epoch, name in pairs])

    def key(self, id: str, epoch: int) -> Array:
        return np.array(np.frombuffer(self._read.get(key_of(epoch, id)), dtype_of(self.data.dtype)))

    def keys(self, ids: list[str], epoch: int) -> Array:
        get, head = self._read.get, epoch.to_bytes(4, "big")
        return self._matrix([get(head + name.encode()) for name in ids])

    def scan(self) -> Iterator[Array]:
        values: list[Any] = []
        for value in self._read.cursor().iternext(keys=False):
            values.append(value)
            if len(values) == SCAN_ROWS:
                yield self._matrix(values)
                values = []
        if values:
            yield self._matrix(values)

    def epoch(self, epoch: int) -> Array:
        cursor, end, values = self._read.cursor(), (epoch + 1).to_bytes(4, "big"), []
        if cursor.set_range(epoch.to_bytes(4, "big")):
            for key, value in cursor.iternext():
                if bytes(key[:4]) >= end:
                    break
                values.append(value)
        return self._matrix(values)

    def close(self) -> None:
        self._cursor = self._transaction = self._read = None
        if self._env is not None:
            self._env.close()
            self._env = None
