"""TensorStore over Zarr v3: one handle, resized and written in whole chunks; its own fsync of every file.

Three arrays side by side: vectors, ids (16 bytes each) and epochs, written at the same time.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import tensorstore as ts

from benchmarks.contenders.buffered import COMMIT_ROWS, Buffered, chunk_rows
from benchmarks.contenders.keyed import ID_BYTES, fixed
from benchmarks.data import Array, Data

CACHE_BYTES = 1 << 30
BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


class TensorStore(Buffered):
    """``codec``: "raw" or "lz4"; ``inner``: rows of a chunk within shards of about 16 MB, where wanted."""

    remote, stands_in = True, False

    def __init__(self, place: str, data: Data, storage_options: dict[str, Any] | None = None, codec: str = "raw",
                 inner: int | None = None) -> None:
        super().__init__(place, data, storage_options)
        shard = chunk_rows(data.row_bytes, 16 << 20) // (inner or 1) * (inner or 1)
        self.align = shard if inner else chunk_rows(data.row_bytes)
        blosc = {"name": "blosc", "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle",
                                                    "typesize": self.dtype.itemsize, "blocksize": 0}}
        self._codecs: list[Any] = [BYTES] if codec == "raw" else [BYTES, blosc]
        if inner:
            self._codecs = [{"name": "sharding_indexed",
                              "configuration": {"chunk_shape": [inner, data.dim], "codecs": self._codecs}}]
        self._context = ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})

    def _arrays_of(self, **how: Any) -> list[Any]:
        found = []
        for name, dtype, chunk, codecs in (
                ("vectors", self.dtype.name, [self.align, self.data.dim], self._codecs),
                ("ids", "uint8", [COMMIT_ROWS, ID_BYTES], [BYTES]), ("epochs", "int32", [COMMIT_ROWS], [BYTES])):
            spec: dict[str, Any] = {"driver": "zarr3", "kvstore": self._kvstore(name), **how}
            if how.get("create"):
                spec["metadata"] = {"shape": [0, *chunk[1:]], "data_type": dtype, "codecs": codecs,
                                    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}}}
            found.append(ts.open(spec, context=self._context))
        return [future.result() for future in found]

    def _kvstore(self, name: str) -> Any:
        if not self.is_remote:
            return {"driver": "file", "path": f"{self.place}/{name}/"}
        options = self.storage_options or {}
        client = options.get("client_kwargs") or {}
        os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"] = options.get("key", ""), options.get("secret", "")
        bucket, _, path = self.place.removeprefix("s3://").partition("/")
        return {"driver": "s3", "bucket": bucket, "path": f"{path}/{name}/", "aws_credentials": {"type": "environment"},
                "aws_region": client.get("region_name", "us-east-1"),
                "endpoint": options.get("endpoint_url") or client.get("endpoint_url")}

    def create(self) -> None:
        self._arrays = self._arrays_of(create=True, delete_existing=True)
        self.begin()

    def _resize(self, rows: int) -> None:
        futures = [array.resize(exclusive_max=[rows] + [None] * (array.rank - 1)) for array in self._arrays]
        self._arrays = [future.result() for future in futures]

    def write(self, base: int, vectors: Array, start: int, ids: list[str], epochs: Array) -> None:
        self._resize(base + len(vectors))
        futures = [array[at:].write(values) for array, at, values in
                   zip(self._arrays, (base, start, start), (vectors, fixed(ids), epochs), strict=True)]
        for future in futures:
            future.result()

    def resume(self, rows: int) -> None:
        self._arrays = self._arrays_of(open=True)
        self._resize(rows)
        self.begin(rows)

    def open(self) -> None:
        self.forget()
        self._arrays = self._arrays_of(open=True, recheck_cached_data="open")

    def count(self) -> int:
        return int(self._arrays[0].shape[0])

    def columns(self) -> tuple[Array, Array]:
        return self._arrays[1].read().result(), self._arrays[2].read().result()

    def read(self, start: int, stop: int) -> Array:
        return self._arrays[0][start:stop].read().result()

    def gather(self, rows: Array) -> Array:
        return self._arrays[0][np.asarray(rows)].read().result()
