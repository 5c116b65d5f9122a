"""The raw shards of one field, side by side in one reserved range of addresses, so that they are one array."""

from __future__ import annotations

import numpy as np

from zstore._typing import Array, Int64s
from zstore.errors import Corrupt
from zstore.format.schema import Field, Schema
from zstore.shards.read import ShardFile
from zstore.storage.pages import Range


class Mapped:
    """``rows`` is ``(shards * rows_per_shard, *shape)``, read-only; of each shard the first ``ready[shard]`` rows may
    be touched, and touching any other kills the process. A row that is ready stays as it is, for every array made from it.
    """

    def __init__(self, schema: Schema, field: Field, shards: int) -> None:
        """Reserve places for this many shards. OSError where the system refuses."""
        self._rows_per_shard, self._field = schema.rows_per_shard, field
        self._shard_bytes = schema.rows_per_shard * field.row_bytes
        self._range = Range(shards * self._shard_bytes)
        self.shards = shards
        self.rows: Array = self._range.array().view(field.numpy_dtype).reshape(-1, *field.shape)
        self.ready: Int64s = np.zeros(shards, np.int64)
        self.complete: Int64s | None = None         # the table of committed rows of which every one is ready
        self._copied: set[int] = set()

    def place(self, shard: int, file: ShardFile) -> None:
        """Bring in what the shard covers. OSError where the system refuses; ``Corrupt`` where the shard is damaged."""
        if file.full and shard not in self._copied:
            self._check_order(file)
            descriptor = file.handle.fileno()
            if descriptor is None:
                raise OSError("the shard has no descriptor")
            self._range.map_file(descriptor, 0, shard * self._shard_bytes, self._shard_bytes)
        else:
            self._copy(shard, file)
        self.ready[shard] = file.rows

    def _check_order(self, file: ShardFile) -> None:
        # A full raw shard is its rows from the first byte on; a trailer that says otherwise is not of this format.
        size = self._field.chunk_rows * self._field.row_bytes
        places = np.arange(len(file.end.offsets), dtype=np.uint64) * np.uint64(size)
        if not (np.array_equal(file.end.offsets, places) and (file.end.lengths == size).all()):
            raise Corrupt(file.name, "the chunks of a raw shard are not in row order")

    def _copy(self, shard: int, file: ShardFile) -> None:
        """The rows of a tail, into anonymous pages in its place, where they stay even when the shard gets full: to map
        a file over pages that someone reads is a risk, and it would free one shard at most."""
        at, row_bytes, step = shard * self._shard_bytes, self._field.row_bytes, self._field.chunk_rows
        if shard not in self._copied:
            self._range.map_anonymous(at, self._shard_bytes)
            self._copied.add(shard)
        have = int(self.ready[shard])
        chunk_bytes = np.empty(step * row_bytes, np.uint8)
        for chunk in range(have // step, -(-file.rows // step)):
            file.chunk_into(chunk, chunk_bytes)
            low, high = max(have, chunk * step), min(file.rows, (chunk + 1) * step)
            # Rows below ``have`` may be being read; they are not written again.
            source = chunk_bytes[(low - chunk * step) * row_bytes:(high - chunk * step) * row_bytes]
            self._range.writable(at + low * row_bytes, len(source))[:] = source
