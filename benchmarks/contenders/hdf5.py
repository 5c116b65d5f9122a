"""HDF5 by h5py: a file of three datasets, chunks of about 1 MB. A commit is ``flush`` and an fsync of the file."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.contenders.buffered import COMMIT_ROWS, Buffered, chunk_rows
from benchmarks.contenders.keyed import ID_BYTES, fixed
from benchmarks.data import Array, Data

CACHE_BYTES = 64 << 20
NAMES = ("vectors", "ids", "epochs")


class HDF5(Buffered):
    """``codec``: "raw", or "bs5" for blosc's zstd level 5 after bitshuffle."""

    durability = "flush and fsync, by the benchmark"

    def __init__(self, place: str, data: Data, storage_options: dict[str, Any] | None = None, codec: str = "raw") -> None:
        super().__init__(place, data, storage_options)
        self.align, self._file, self._filter = chunk_rows(data.row_bytes), None, {}
        if codec == "bs5":
            import hdf5plugin
            self._filter = dict(hdf5plugin.Blosc(cname="zstd", clevel=5, shuffle=hdf5plugin.Blosc.BITSHUFFLE))

    def _open(self, mode: str) -> None:
        self.close()
        self._file: Any = h5py.File(f"{self.place}/run.h5", mode, rdcc_nbytes=CACHE_BYTES, rdcc_nslots=10_007)

    def create(self) -> None:
        Path(self.place).mkdir(parents=True)
        self._open("w")
        make = self._file.create_dataset
        self._sets = [make("vectors", (0, self.data.dim), self.stored, maxshape=(None, self.data.dim),
                           chunks=(self.align, self.data.dim), **self._filter),
                      make("ids", (0, ID_BYTES), np.uint8, maxshape=(None, ID_BYTES), chunks=(COMMIT_ROWS, ID_BYTES)),
                      make("epochs", (0,), np.int32, maxshape=(None,), chunks=(COMMIT_ROWS,))]
        self.begin()

    def write(self, base: int, vectors: Array, start: int, ids: list[str], epochs: Array) -> None:
        for values, at, part in zip(self._sets, (base, start, start), (vectors, fixed(ids), epochs), strict=True):
            values.resize(at + len(part), axis=0)
            values[at:] = part

    def commit(self) -> None:
        self.flush()
        self._file.flush()
        os.fsync(self._file.id.get_vfd_handle())

    def finish(self) -> None:
        self.commit()
        self.close()

    def resume(self, rows: int) -> None:
        self._open("r+")
        self._sets = [self._file[name] for name in NAMES]
        for values in self._sets:
            values.resize(rows, axis=0)
        self.begin(rows)

    def open(self) -> None:
        self.forget()
        self._open("r")
        self._sets = [self._file[name] for name in NAMES]

    def count(self) -> int:
        return len(self._sets[0])

    def columns(self) -> tuple[Array, Array]:
        return self._sets[1][:], self._sets[2][:]

    def read(self, start: int, stop: int) -> Array:
        return self.given(self._sets[0][start:stop])

    def gather(self, rows: Array) -> Array:
        """Chunk by chunk: a selection of points is slower in HDF5 than reading the chunks whole."""
        rows = np.asarray(rows)
        out = np.empty((len(rows), self.data.dim), self.stored)
        order = np.argsort(rows, kind="stable")
        chunks = rows[order] // self.align
        edges = [0, *(np.flatnonzero(np.diff(chunks)) + 1).tolist(), len(rows)]
        for low, high in pairwise(edges):
            picked = rows[order[low:high]]
            first, last = int(picked[0]), int(picked[-1])
            out[order[low:high]] = self._sets[0][first:last + 1][picked - first]
        return self.given(out)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
