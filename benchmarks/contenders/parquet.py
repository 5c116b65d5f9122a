"""Parquet by pyarrow: BYTE_STREAM_SPLIT and zstd, row groups of about 1 MB; one writer for the run, or a file per commit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.fs
import pyarrow.parquet as pq

from benchmarks.contender import BY_US, Cannot, sync_file_system
from benchmarks.contenders.arrow import matrix, table_of
from benchmarks.contenders.buffered import Buffered, chunk_rows
from benchmarks.contenders.keyed import ID_BYTES, fixed
from benchmarks.data import Array, Data

GROUPS_AT_ONCE = 32
HOW = {"compression": "zstd", "use_dictionary": False, "use_byte_stream_split": ["vector.list.element"],
       "write_statistics": ["id", "epoch"]}


class ParquetFiles(Buffered):
    """A file per commit, written whole: what a run that must survive writes. Row numbers count through the files in order."""

    durability, remote = BY_US, True

    def __init__(self, place: str, data: Data, storage_options: dict[str, Any] | None = None) -> None:
        super().__init__(place, data, storage_options)
        self._group_rows = chunk_rows(data.row_bytes)
        self._system, self._root = self._filesystem()

    def _filesystem(self) -> tuple[Any, str]:
        if not self.is_remote:
            return pyarrow.fs.LocalFileSystem(use_mmap=True), self.place
        options = self.storage_options or {}
        client = options.get("client_kwargs") or {}
        system = pyarrow.fs.S3FileSystem(access_key=options.get("key"), secret_key=options.get("secret"),
                                         region=client.get("region_name", "us-east-1"),
                                         endpoint_override=options.get("endpoint_url") or client.get("endpoint_url"))
        return system, self.place.removeprefix("s3://")

    # -- writing ----------------------------------------------------------------------------------------------------------
    def create(self) -> None:
        self.folder()
        self.begin()

    def write(self, base: int, vectors: Array, start: int, ids: list[str], epochs: Array) -> None:
        pq.write_table(table_of(vectors, ids, epochs), f"{self._root}/{start:012d}.parquet", filesystem=self._system,
                       row_group_size=self._group_rows, **HOW)

    def resume(self, rows: int) -> None:
        for path in self._paths():
            if int(path.rsplit("/", 1)[1].removesuffix(".parquet")) >= rows:
                self._system.delete_file(path)
        self.begin(rows)

    # -- reading ----------------------------------------------------------------------------------------------------------
    def _paths(self) -> list[str]:
        found = self._system.get_file_info(pyarrow.fs.FileSelector(self._root))
        return sorted(info.path for info in found if info.path.endswith(".parquet"))

    def open(self) -> None:
        self.forget()
        self._files = [pq.ParquetFile(self._system.open_input_file(path)) for path in self._paths()]
        self._groups = [(file, group) for file in self._files for group in range(file.metadata.num_row_groups)]
        lengths = [file.metadata.row_group(group).num_rows for file, group in self._groups]
        self._starts = np.cumsum([0, *lengths])

    def count(self) -> int:
        return int(self._starts[-1])

    def columns(self) -> tuple[Array, Array]:
        tables = [file.read(columns=["id", "epoch"]) for file in self._files]
        ids = [fixed(table["id"].to_pylist()) for table in tables]
        return (np.concatenate([np.empty((0, ID_BYTES), np.uint8), *ids]),
                np.concatenate([np.empty(0, np.int32), *(table["epoch"].to_numpy() for table in tables)]))

    def _read_groups(self, groups: list[int]) -> Array:
        """Whole row groups, one behind the other, decoded on all cores; those of one file in one call."""
        found, start = [], 0
        while start < len(groups):
            file, stop = self._groups[groups[start]][0], start
            while stop < len(groups) and self._groups[groups[stop]][0] is file:
                stop += 1
            table = file.read_row_groups([self._groups[g][1] for g in groups[start:stop]], columns=["vector"])
            found.append(self.given(matrix(table["vector"], self.data.dim)))
            start = stop
        return found[0] if len(found) == 1 else np.concatenate(found)

    def read(self, start: int, stop: int) -> Array:
        first, last = np.searchsorted(self._starts, [start, stop - 1], side="right") - 1
        skip = start - int(self._starts[first])
        return self._read_groups(list(range(first, last + 1)))[skip:skip + stop - start]

    def gather(self, rows: Array) -> Array:
        rows = np.asarray(rows)
        out = np.empty((len(rows), self.data.dim), self.dtype)
        order = np.argsort(rows, kind="stable")
        groups = np.searchsorted(self._starts, rows[order], side="right") - 1
        touched = np.unique(groups)
        for at in range(0, len(touched), GROUPS_AT_ONCE):
            some = touched[at:at + GROUPS_AT_ONCE]
            block = self._read_groups(some.tolist())
            lengths = self._starts[some + 1] - self._starts[some]
            begins = np.cumsum([0, *lengths[:-1]])
            low, high = np.searchsorted(groups, [some[0], some[-1] + 1])
            which = np.searchsorted(some, groups[low:high])
            out[order[low:high]] = block[rows[order[low:high]] - self._starts[some][which] + begins[which]]
        return out

    def close(self) -> None:
        self._files, self._groups = [], []


class Parquet(ParquetFiles):
    """One ParquetWriter for the whole run."""

    durable = False
    durability = "none before the end: a file without its footer is lost"

    def create(self) -> None:
        super().create()
        self._writer: Any = None

    def write(self, base: int, vectors: Array, start: int, ids: list[str], epochs: Array) -> None:
        table = table_of(vectors, ids, epochs)
        if self._writer is None:
            self._writer = pq.ParquetWriter(f"{self._root}/{start:012d}.parquet", table.schema, filesystem=self._system, **HOW)
        self._writer.write_table(table, row_group_size=self._group_rows)

    def finish(self) -> None:
        self.flush()
        self._writer.close()
        if not self.is_remote:
            sync_file_system(self.place)

    def resume(self, rows: int) -> None:
        raise Cannot("a Parquet file without its footer can't be read; who must survive writes a file per commit")
