"""Icechunk: the arrays of zarr-python in a repository; a session and a snapshot for each commit. It never syncs by itself."""

from __future__ import annotations

from typing import Any

import icechunk
import zarr

from benchmarks.contender import Cannot
from benchmarks.contenders.buffered import chunk_rows
from benchmarks.contenders.keyed import fixed
from benchmarks.contenders.zarr_python import NAMES, Buffered, ZarrReads, lz4, make_arrays
from benchmarks.data import Array, Data

icechunk.set_logs_filter("error")      # that a local folder takes one writer at a time is known


class Icechunk(ZarrReads, Buffered):
    """``codec``: "raw" or "lz4". A commit's metadata says how many rows it has."""

    def __init__(self, place: str, data: Data, storage_options: dict[str, Any] | None = None, codec: str = "raw") -> None:
        super().__init__(place, data, storage_options)
        self.align = chunk_rows(data.row_bytes)
        self._compressors = None if codec == "raw" else [lz4(self.stored.itemsize)]
        self._session: Any = None

    def _storage(self) -> Any:
        if not self.is_remote:
            return icechunk.local_filesystem_storage(self.place)
        options = self.storage_options or {}
        client = options.get("client_kwargs") or {}
        endpoint = options.get("endpoint_url") or client.get("endpoint_url")
        bucket, _, prefix = self.place.removeprefix("s3://").partition("/")
        return icechunk.s3_storage(bucket=bucket, prefix=prefix, endpoint_url=endpoint,
                                   region=client.get("region_name", "us-east-1"),
                                   allow_http=bool(endpoint and endpoint.startswith("http:")), access_key_id=options.get("key"),
                                   secret_access_key=options.get("secret"), force_path_style=endpoint is not None)

    def create(self) -> None:
        self.folder()
        self._repo = icechunk.Repository.create(self._storage())
        self._session = self._repo.writable_session("main")
        make_arrays(zarr.create_group(self._session.store), self.data, self.stored, compressors=self._compressors,
                    chunks=(self.align, self.data.dim))
        self.begin()

    def write(self, base: int, vectors: Array, start: int, ids: list[str], epochs: Array) -> None:
        if self._session is None:
            self._session = self._repo.writable_session("main")
        group = zarr.open_group(self._session.store, mode="r+")
        for name, at, values in zip(NAMES, (base, start, start), (vectors, fixed(ids), epochs), strict=True):
            array = group[name]
            array.resize((at + len(values), *array.shape[1:]))
            array[at:] = values

    def commit(self) -> None:
        self.flush()
        if self._session is not None:
            self._session.commit("rows", metadata={"rows": self._written})
            self._session = None
            self.sync()

    def resume(self, rows: int) -> None:
        self._repo = icechunk.Repository.open(self._storage())
        for snapshot in self._repo.ancestry(branch="main"):
            if (snapshot.metadata or {}).get("rows") == rows:
                self._repo.reset_branch("main", snapshot.id)
                break
        else:
            raise Cannot(f"no snapshot has {rows} rows")
        self._session = None
        self.open()
        self.begin(rows)

    def _group(self, mode: str) -> Any:
        return zarr.open_group(self._repo.readonly_session("main").store, mode=mode)

    def open(self) -> None:
        self._repo = icechunk.Repository.open(self._storage())
        super().open()
