"""The raw shards of one field, side by side in one reserved range of addresses, so that they are one array."""

from __future__ import annotations

import numpy as np

from zstore._typing import Array, Int64s
from zstore.errors import Corrupt
from zstore.format.schema import Field, Schema
from zstore.shards.read import ShardFile
from zstore.storage.pages import Range
from zstore.threads import spread

PARALLEL_CHUNKS = 64        # of a tail, copied by each thread at least


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
        self._fresh = np.zeros(shards, bool)        # mapped, and not touched before

    def place(self, shard: int, file: ShardFile) -> None:
        """Bring in what the shard covers. OSError where the system refuses; ``Corrupt`` where the shard is damaged."""
        rows = file.rows            # a file that is opened again meanwhile may cover more, and those were not copied
        if file.full and shard not in self._copied:
            self._check_order(file)
            descriptor = file.handle.fileno()
            if descriptor is None:
                raise OSError("the shard has no descriptor")
            self._range.map_file(descriptor, 0, shard * self._shard_bytes, self._shard_bytes)
            self._fresh[shard] = True
        else:
            self._copy(shard, file, rows)
        self.ready[shard] = rows

    def pass_over(self, start: int, count: int) -> None:
        """These rows, all ready, are about to be read in order: bring the shards that lie among them, once.

        By huge pages: of a file that is read for the first time the system makes them only where it is told so, and without
        them every later pass takes a quarter longer. Not for single rows, each of which would bring megabytes from the disk."""
        first, last = -(-start // self._rows_per_shard), (start + count) // self._rows_per_shard
        for shard in (np.flatnonzero(self._fresh[first:last]) + first).tolist():
            self._fresh[shard] = False
            self._range.huge(shard * self._shard_bytes, self._shard_bytes)
            self._range.bring(shard * self._shard_bytes, self._shard_bytes)

    def _check_order(self, file: ShardFile) -> None:
        # A full raw shard is its rows from the first byte on; a trailer that says otherwise is not of this format.
        size = self._field.chunk_rows * self._field.row_bytes
        places = np.arange(len(file.end.offsets), dtype=np.uint64) * np.uint64(size)
        if not (np.array_equal(file.end.offsets, places) and (file.end.lengths == size).all()):
            raise Corrupt(file.name, "the chunks of a raw shard are not in row order")

    def _copy(self, shard: int, file: ShardFile, rows: int) -> None:
        """The rows of a tail, into anonymous pages in its place, where they stay even when the shard gets full: to map
        a file over pages that someone reads is a risk, and it would free one shard at most."""
        at, row_bytes, step = shard * self._shard_bytes, self._field.row_bytes, self._field.chunk_rows
        if shard not in self._copied:
            self._range.map_anonymous(at, self._shard_bytes)
            self._range.huge(at, self._shard_bytes)
            self._copied.add(shard)
        place, have = self._range.writable(at, self._shard_bytes), int(self.ready[shard])
        first, last = -(-have // step), rows // step        # the chunks of which every byte is new

        def whole(low: int, high: int) -> None:
            chunks = np.arange(first + low, first + high)
            file.chunks_into(chunks, place, chunks * (step * row_bytes))
        spread(whole, max(last - first, 0), PARALLEL_CHUNKS)
        # Rows below ``have`` may be being read; they are not written again.
        for low, high in ((have, min(first * step, rows)), (max(first, last) * step, rows)):
            if low < high:
                chunk = low // step
                decoded = np.empty(step * row_bytes, np.uint8)
                file.chunk_into(chunk, decoded)
                source = decoded[(low - chunk * step) * row_bytes:(high - chunk * step) * row_bytes]
                place[low * row_bytes:high * row_bytes] = source
