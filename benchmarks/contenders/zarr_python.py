"""zarr-python: as its tutorial appends, and as it is fast; with zarrs as its codec pipeline.

Three arrays of a group: vectors, ids (16 bytes each) and epochs. It never syncs by itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from benchmarks.contender import BY_US, NONE
from benchmarks.contenders.buffered import COMMIT_ROWS, Buffered, chunk_rows
from benchmarks.contenders.keyed import ID_BYTES, Keyed, fixed
from benchmarks.data import Array, Data

NAMES = ("vectors", "ids", "epochs")


def lz4(itemsize: int) -> BloscCodec:
    """blosc, lz4 after bitshuffle."""
    return BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=itemsize)


def make_arrays(group: Any, data: Data, stored: Any, **vectors: Any) -> list[Any]:
    """The three arrays, empty. ``vectors``: chunks, shards and compressors of the first."""
    return [group.create_array("vectors", shape=(0, data.dim), dtype=stored, **vectors),
            group.create_array("ids", shape=(0, ID_BYTES), chunks=(COMMIT_ROWS, ID_BYTES), dtype="uint8"),
            group.create_array("epochs", shape=(0,), chunks=(COMMIT_ROWS,), dtype="int32")]


class ZarrReads(Keyed):
    """Reading is the same however it was written."""

    durability, remote = BY_US, True

    def _group(self, mode: str) -> Any:
        return zarr.open_group(self.place, mode=mode, storage_options=self.storage_options if self.is_remote else None)

    def open(self) -> None:
        self.forget()
        group = self._group("r")
        self._arrays = [group[name] for name in NAMES]

    def count(self) -> int:
        return int(self._arrays[0].shape[0])

    def columns(self) -> tuple[Array, Array]:
        return self._arrays[1][:], self._arrays[2][:]

    def read(self, start: int, stop: int) -> Array:
        return self.given(self._arrays[0][start:stop])

    def gather(self, rows: Array) -> Array:
        return self.given(self._arrays[0].get_orthogonal_selection((np.asarray(rows), slice(None))))


class ZarrAppend(ZarrReads):
    """``Array.append`` for each batch, and the default codec: what the tutorial shows."""

    def create(self) -> None:
        chunk = (chunk_rows(self.data.row_bytes), self.data.dim)
        self._arrays = make_arrays(self._group("w"), self.data, self.stored, chunks=chunk)

    def append(self, ids: list[str], epoch: int, vectors: Array) -> None:
        for array, values in zip(self._arrays, (vectors.view(self.stored), fixed(ids), np.full(len(ids), epoch, np.int32)),
                                 strict=True):
            array.append(values)

    def commit(self) -> None:
        self.sync()

    def resume(self, rows: int) -> None:
        group = self._group("r+")
        self._arrays = [group[name] for name in NAMES]
        for array in self._arrays:
            array.resize((rows, *array.shape[1:]))


class ZarrTuned(ZarrReads, Buffered):
    """Whole chunks of about 1 MB, a commit's in one call. ``codec``: "raw" or "lz4"; ``inner``: rows of a chunk within shards
    of about 16 MB, where wanted; ``pipeline``: "zarrs" for its codecs in Rust."""

    def __init__(self, place: str, data: Data, storage_options: dict[str, Any] | None = None, codec: str = "raw",
                 inner: int | None = None, pipeline: str | None = None) -> None:
        super().__init__(place, data, storage_options)
        if pipeline == "zarrs":
            import zarrs  # noqa: F401 - registers itself
            zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
        shard = chunk_rows(data.row_bytes, 16 << 20) // (inner or 1) * (inner or 1)
        chunk = chunk_rows(data.row_bytes)
        self.align = shard if inner else chunk
        self._layout = {"chunks": (inner or chunk, data.dim), "shards": (shard, data.dim) if inner else None,
                        "compressors": None if codec == "raw" else [lz4(self.stored.itemsize)]}

    def create(self) -> None:
        self._arrays = make_arrays(self._group("w"), self.data, self.stored, **self._layout)
        self.begin()

    def write(self, base: int, vectors: Array, start: int, ids: list[str], epochs: Array) -> None:
        for array, at, values in zip(self._arrays, (base, start, start), (vectors, fixed(ids), epochs), strict=True):
            array.resize((at + len(values), *array.shape[1:]))
            array[at:] = values

    def resume(self, rows: int) -> None:
        group = self._group("r+")
        self._arrays = [group[name] for name in NAMES]
        for array in self._arrays:
            array.resize((rows, *array.shape[1:]))
        self.begin(rows)


class ZarrUnsynced(ZarrTuned):
    """The same as its users leave it."""

    durability, durable = NONE, False
