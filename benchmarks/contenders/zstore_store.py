"""zstore as its README says: a Writer in the loop, a Reader afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.contender import Contender
from benchmarks.data import Array, Data
from zstore import Reader, Writer, history


class ZStore(Contender):
    """``codec``: a preset's name."""

    durability = "its own fsync: data, names and record"
    remote = True
    cache_dir: str | None = None

    def __init__(self, place: str, data: Data, storage_options: dict[str, Any] | None = None, codec: str = "raw") -> None:
        super().__init__(place, data, storage_options)
        self._codec = codec
        self._reader: Reader | None = None

    def create(self) -> None:
        self._writer = Writer(self.place, codec=self._codec, storage_options=self.storage_options)

    def append(self, ids: list[str], epoch: int, vectors: Array) -> None:
        self._writer.append(ids, vectors, epoch=epoch)

    def commit(self) -> None:
        self._writer.commit()

    def finish(self) -> None:
        self._writer.close()

    def resume(self, rows: int) -> None:
        # A checkpoint keeps the mark; here the log is asked which commit held so many rows.
        at = next(c for c in reversed(history(self.place, storage_options=self.storage_options)) if c.rows == rows)
        self._writer = Writer(self.place, at=at, storage_options=self.storage_options)

    def open(self) -> None:
        self._reader = Reader(self.place, storage_options=self.storage_options, cache_dir=self.cache_dir)

    def count(self) -> int:
        return len(self._run)

    @property
    def _run(self) -> Reader:
        assert self._reader is not None, "open first"
        return self._reader

    def gather(self, rows: Array) -> Array:
        return self._run[rows]

    def key(self, id: str, epoch: int) -> Array:
        return self._run.get(id, epoch=epoch)

    def keys(self, ids: list[str], epoch: int) -> Array:
        return self._run.get(ids, epoch=epoch)

    def scan(self) -> Iterator[Array]:
        for view in self._run.batches():
            yield view.vectors

    def epoch(self, epoch: int) -> Array:
        return self._run.epoch(epoch).vectors

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
