"""Lance: one append per commit, rows taken in one call, a BTREE on the ids and a BITMAP on the epochs. It never syncs by
itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lance
import numpy as np

from benchmarks.contender import BY_US, Cannot
from benchmarks.contenders.arrow import matrix, table_of
from benchmarks.contenders.buffered import Buffered
from benchmarks.data import Array


class Lance(Buffered):
    """A version per commit; the indexes are made when the run ends."""

    durability, remote = BY_US, True

    @property
    def _options(self) -> dict[str, str] | None:
        if not self.is_remote:
            return None
        options = self.storage_options or {}
        client = options.get("client_kwargs") or {}
        endpoint = options.get("endpoint_url") or client.get("endpoint_url")
        found = {"aws_access_key_id": options.get("key"), "aws_secret_access_key": options.get("secret"),
                 "aws_endpoint": endpoint,
                 "aws_region": client.get("region_name", "us-east-1"), "allow_http": "true" if endpoint else None,
                 "aws_virtual_hosted_style_request": "false" if endpoint else None}
        return {name: value for name, value in found.items() if value}

    def create(self) -> None:
        self._mode = "create"
        self.begin()

    def write(self, base: int, vectors: Array, start: int, ids: list[str], epochs: Array) -> None:
        lance.write_dataset(table_of(vectors, ids, epochs), self.place, mode=self._mode, storage_options=self._options)
        self._mode = "append"

    def finish(self) -> None:
        self.flush()
        found = lance.dataset(self.place, storage_options=self._options)
        found.create_scalar_index("id", "BTREE", replace=True)
        found.create_scalar_index("epoch", "BITMAP", replace=True)
        self.sync()

    def resume(self, rows: int) -> None:
        found = lance.dataset(self.place, storage_options=self._options)
        for version in sorted((entry["version"] for entry in found.versions()), reverse=True):
            older = found.checkout_version(version)
            if older.count_rows() == rows:
                older.restore()
                self._mode = "append"
                return self.begin(rows)
        raise Cannot(f"no version has {rows} rows")

    def open(self) -> None:
        self._set = lance.dataset(self.place, storage_options=self._options)

    def count(self) -> int:
        return int(self._set.count_rows())

    def _matrix(self, column: Any) -> Array:
        return self.given(matrix(column, self.data.dim))

    def gather(self, rows: Array) -> Array:
        return self._matrix(self._set.take(np.asarray(rows), columns=["vector"])["vector"])

    def key(self, id: str, epoch: int) -> Array:
        return self._matrix(self._set.to_table(columns=["vector"], filter=f"id = '{id}' AND epoch = {epoch}")["vector"])[0]

    def keys(self, ids: list[str], epoch: int) -> Array:
        wanted = sorted(set(ids))
        listed = ",".join(f"'{name}'" for name in wanted)
        found = self._set.to_table(columns=["id", "vector"], filter=f"epoch = {epoch} AND id IN ({listed})")
        places = {name: place for place, name in enumerate(found["id"].to_pylist())}
        return self._matrix(found["vector"])[[places[name] for name in ids]]

    def scan(self) -> Iterator[Array]:
        for batch in self._set.to_batches(columns=["vector"]):
            yield self._matrix(batch["vector"])

    def epoch(self, epoch: int) -> Array:
        return self._matrix(self._set.to_table(columns=["vector"], filter=f"epoch = {epoch}")["vector"])
