"""One field's shards and chunks: opened, checked against what was committed, decoded."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict

import numpy as np

from zstore._typing import Array, Int64s
from zstore.format.extents import Extents
from zstore.format.schema import Field, Schema
from zstore.shards.read import ShardFile, open_shard
from zstore.storage.base import Storage

OPEN_SHARDS = 32            # handles kept open per field
TEXT_CHUNKS = 64            # decoded string chunks kept per field
PARTIAL_CHUNKS = 64
_all: weakref.WeakSet[Chunks] = weakref.WeakSet()


class Chunks:
    """The shards of one field, a few of them open. Safe among threads and in forked children.

    ``need[shard]`` is how many rows the shard must cover, from its first; ``lock`` guards whatever is made once.
    """

    def __init__(self, storage: Storage, schema: Schema, field: Field) -> None:
        self.storage, self.schema, self.field = storage, schema, field
        self.rows_per_shard = schema.rows_per_shard
        self.extents = Extents()
        self.need: Int64s = np.zeros(0, np.int64)
        self.lock = threading.RLock()
        self.whole: set[int] = set()
        self._chunks_per_shard = schema.chunks(field)
        self._open: OrderedDict[int, ShardFile] = OrderedDict()
        self._partial: OrderedDict[int, tuple[int, Array]] = OrderedDict()
        self._texts: OrderedDict[int, tuple[int, Array]] = OrderedDict()
        _all.add(self)

    def cover(self, extents: Extents) -> None:
        """These addresses are committed: shards that hold fewer are ``Corrupt`` from now on."""
        with self.lock:
            if extents != self.extents:
                self.extents = extents if not len(self.extents) else self.extents | extents
                self.need = _rows_needed(self.extents, self.rows_per_shard)

    def needed(self, shard: int) -> int:
        """Rows that the shard must cover, from its first."""
        return int(self.need[shard]) if shard < len(self.need) else 0

    def shard(self, shard: int, keep: bool = True) -> ShardFile:
        """An open shard that covers all its committed rows."""
        file = self._open.get(shard)
        if file is not None and (shard in self.whole or file.rows >= self.needed(shard)):
            return file
        fresh = open_shard(self.storage, self.schema, self.field, shard)
        fresh.check_covered(self.needed(shard))
        with self.lock:
            if fresh.full:
                self.whole.add(shard)
            if keep:
                self._open[shard] = fresh
                self._open.move_to_end(shard)
            while len(self._open) > OPEN_SHARDS:
                # Not closed: another thread may be reading through it. Its last user lets the file go.
                self._open.popitem(last=False)
        return fresh

    def decode(self, chunk: int, out: Array) -> None:
        """Decode one whole chunk into uint8."""
        shard, inner = divmod(chunk, self._chunks_per_shard)
        self.shard(shard).chunk_into(inner, out)

    def private(self, chunk: int) -> Array | None:
        """The rows of a chunk that its shard does not cover to the end, else None. They stay out of the cache, for the
        rest of the chunk will be other bytes soon."""
        shard, inner = divmod(chunk, self._chunks_per_shard)
        if shard in self.whole:
            return None
        file = self.shard(shard)
        covered = min(file.rows - inner * self.field.chunk_rows, self.field.chunk_rows)
        if covered == self.field.chunk_rows:
            return None
        kept = self._partial.get(chunk)
        if kept is not None and kept[0] >= covered:
            return kept[1]
        raw = np.empty(self.field.chunk_rows * self.field.row_bytes, np.uint8)
        file.chunk_into(inner, raw)
        rows = raw.view(self.field.numpy_dtype).reshape(-1, *self.field.shape)
        self._keep(self._partial, chunk, (covered, rows), PARTIAL_CHUNKS)
        return rows

    def text(self, chunk: int) -> Array:
        """The strings of one chunk, (chunk_rows,) StringDType; those behind the committed rows mean nothing."""
        shard, inner = divmod(chunk, self._chunks_per_shard)
        kept = self._texts.get(chunk)
        step = self.field.chunk_rows
        if kept is not None and (kept[0] == step or kept[0] >= min(self.needed(shard) - inner * step, step)):
            return kept[1]
        file = self.shard(shard)
        rows = file.texts(inner)
        self._keep(self._texts, chunk, (min(file.rows - inner * step, step), rows), TEXT_CHUNKS)
        return rows

    def _keep(self, kept: OrderedDict[int, tuple[int, Array]], chunk: int, value: tuple[int, Array], most: int) -> None:
        with self.lock:
            kept[chunk] = value
            kept.move_to_end(chunk)
            while len(kept) > most:
                kept.popitem(last=False)


def _rows_needed(extents: Extents, rows_per_shard: int) -> Int64s:
    """For each shard up to the last, how many rows it must cover, from its first; 0 where none is committed."""
    bases = np.arange(-(-extents.end // rows_per_shard), dtype=np.int64) * rows_per_shard
    if not len(bases):
        return bases
    last = np.searchsorted(extents.starts, bases + rows_per_shard) - 1
    ends = (extents.starts + extents.counts)[np.maximum(last, 0)]
    return np.where(last < 0, 0, np.clip(ends - bases, 0, rows_per_shard))


def _in_child() -> None:
    # A thread of the parent may have held a lock; it does not exist here, and what it had half done is done again.
    for chunks in list(_all):
        chunks.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
