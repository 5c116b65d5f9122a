"""blosc2: an NDArray in one file, grown by ``resize``, lz4 after bitshuffle; read through a map. It never syncs by itself.

A block is what one row costs to decode; a chunk holds the blocks of about 1 or 4 MB, for blosc2 compresses a chunk's blocks on
all cores, and rewrites its index of chunks each time that the file grows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from benchmarks.contender import BY_US
from benchmarks.contenders.buffered import COMMIT_ROWS, Buffered, chunk_rows
from benchmarks.contenders.keyed import ID_BYTES, fixed
from benchmarks.data import Array, Data

NAMES = ("vectors", "ids", "epochs")


class Blosc2(Buffered):
    """``block``: rows of a block; ``chunk_mb``: MB of a chunk."""

    durability = BY_US

    def __init__(self, place: str, data: Data, storage_options: dict[str, Any] | None = None, block: int = 64,
                 chunk_mb: int = 4) -> None:
        super().__init__(place, data, storage_options)
        self.align = max(block, chunk_rows(data.row_bytes, chunk_mb << 20))
        self._block = block

    def _path(self, name: str) -> str:
        return f"{self.place}/{name}.b2nd"

    def create(self) -> None:
        Path(self.place).mkdir(parents=True)
        how = {"codec": blosc2.Codec.LZ4, "filters": [blosc2.Filter.BITSHUFFLE]}
        self._arrays = [
            blosc2.empty((0, self.data.dim), dtype=self.stored, chunks=(self.align, self.data.dim), mode="w", contiguous=True,
                         blocks=(self._block, self.data.dim), urlpath=self._path("vectors"), cparams=how),
            blosc2.empty((0, ID_BYTES), dtype=np.uint8, chunks=(COMMIT_ROWS, ID_BYTES), mode="w", urlpath=self._path("ids")),
            blosc2.empty((0,), dtype=np.int32, chunks=(COMMIT_ROWS,), mode="w", urlpath=self._path("epochs"))]
        self.begin()

    def write(self, base: int, vectors: Array, start: int, ids: list[str], epochs: Array) -> None:
        for array, at, values in zip(self._arrays, (base, start, start), (vectors, fixed(ids), epochs), strict=True):
            array.resize((at + len(values), *array.shape[1:]))
            array[at:] = values

    def finish(self) -> None:
        self.commit()
        self._arrays = []

    def resume(self, rows: int) -> None:
        self._arrays = [blosc2.open(self._path(name), mode="a") for name in NAMES]
        for array in self._arrays:
            array.resize((rows, *array.shape[1:]))
        self.begin(rows)

    def open(self) -> None:
        self.forget()
        self._arrays = [blosc2.open(self._path(name), mode="r", mmap_mode="r") for name in NAMES]

    def count(self) -> int:
        return int(self._arrays[0].shape[0])

    def columns(self) -> tuple[Array, Array]:
        return self._arrays[1][:], self._arrays[2][:]

    def read(self, start: int, stop: int) -> Array:
        return self.given(self._arrays[0][start:stop])

    def gather(self, rows: Array) -> Array:
        return self.given(self._arrays[0][np.asarray(rows)])

    def close(self) -> None:
        self._arrays = []
