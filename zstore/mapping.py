"""One field's addresses, as values: mapped where the shards are raw files, decoded into the cache elsewhere.

Which rows exist is decided by extents, before anyone comes here: ``Column`` is asked for committed addresses only, and a
shard that does not hold them is ``Corrupt``, never a fill.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import OrderedDict
from typing import Any

import numpy as np

from zstore._typing import Array, Int64s
from zstore.cache import PARALLEL_BYTES, Arena, Cache
from zstore.errors import Corrupt
from zstore.format.extents import Extents
from zstore.format.keys import StringIds
from zstore.format.schema import TILE, Field, Schema
from zstore.mapped import Mapped
from zstore.shards.read import ShardFile, open_shard
from zstore.storage.base import Storage
from zstore.storage.pages import PAGE
from zstore.threads import spread

log = logging.getLogger("zstore")

_TEXT = np.dtypes.StringDType()
OPEN_SHARDS = 32            # handles kept open per field
TEXT_CHUNKS = 64            # decoded string chunks kept per field
PARTIAL_CHUNKS = 64
SPARE_SHARDS = 256          # reserved beyond twice the present length; a reservation costs no memory
_columns: weakref.WeakSet[Column] = weakref.WeakSet()


class Column:
    """The values of one field. It lives across refreshes and is safe among threads and in forked children.

    Every gather is a new array of shape ``(n, *field.shape)`` and dtype ``field.numpy_dtype`` (StringDType for strings).
    """

    def __init__(self, storage: Storage, schema: Schema, field: Field, cache: Cache) -> None:
        self.storage, self.schema, self.field, self.cache = storage, schema, field, cache
        self._dtype: np.dtype[Any] = _TEXT if field.is_string else field.numpy_dtype
        self.rows_per_shard = schema.rows_per_shard
        self._chunks_per_shard = schema.chunks(field)
        self._extents = Extents()
        self._need: Int64s = np.zeros(0, np.int64)
        self._open: OrderedDict[int, ShardFile] = OrderedDict()
        self._whole: set[int] = set()
        self._partial: OrderedDict[int, tuple[int, Array]] = OrderedDict()
        self._texts: OrderedDict[int, tuple[int, Array]] = OrderedDict()
        self._lock = threading.RLock()
        self._arena: Arena | None = None
        self._map: Mapped | None = None
        self._may_map = not field.is_string and schema.is_mappable(field) and TILE % PAGE == 0
        _columns.add(self)

    def cover(self, extents: Extents) -> None:
        """These addresses are committed: shards that hold fewer are ``Corrupt`` from now on."""
        with self._lock:
            if extents != self._extents:
                self._extents = extents if not len(self._extents) else self._extents | extents
                self._need = _rows_needed(self._extents, self.rows_per_shard)

    def run(self, start: int, count: int) -> Array | None:
        """The rows of ``[start, start + count)`` as a read-only view of the mapping, no copy; None where that can't be."""
        if count <= 0:
            return self.empty(0)
        mapped = self._mapped()
        first, last = start // self.rows_per_shard, (start + count - 1) // self.rows_per_shard
        if mapped is None or not self._place(mapped, np.arange(first, last + 1)):
            return None
        return mapped.rows[start:start + count]

    def empty(self, count: int) -> Array:
        """A new array for this many rows, not filled."""
        return np.empty((count, *self.field.shape), self._dtype)

    def take(self, addresses: Int64s, out: Array | None = None) -> Array:
        """The rows at these addresses, copied (into ``out``, contiguous, where it is given)."""
        if out is None:
            out = self.empty(len(addresses))
        mapped = self._mapped()
        if self.field.is_string:
            for chunk, places, within in self._by_chunk(addresses):
                out[places] = self._text(chunk)[within]
        elif mapped is not None and self._reach(mapped, addresses):
            _gather(mapped.rows, addresses, out)
        else:
            chunks = addresses // self.field.chunk_rows
            self._the_arena().take(chunks, addresses - chunks * self.field.chunk_rows, out)
        return out

    def one(self, address: int) -> Array:
        """The row at one address, copied, shape ``(*field.shape)``."""
        if self.field.is_string:
            chunk, within = divmod(address, self.field.chunk_rows)
            return self._text(chunk)[within]                # type: ignore[no-any-return]
        mapped = self._map
        if mapped is not None and address < len(mapped.rows) and (
                mapped.complete is self._need
                or address % self.rows_per_shard < mapped.ready[address // self.rows_per_shard]):
            return mapped.rows[address].copy()              # type: ignore[no-any-return]
        if self._arena is not None:
            chunk, within = divmod(address, self.field.chunk_rows)
            row = self._arena.one(chunk, within)
            if row is not None:
                return row
        return self.take(np.array([address]))[0]            # type: ignore[no-any-return]

    def span(self, start: int, count: int, out: Array | None = None) -> Array:
        """The rows of ``[start, start + count)``, copied. A span that would push everything else out of the cache is
        decoded straight into the result."""
        if (self.field.is_string or self._mapped() is not None
                or count * self.field.row_bytes <= self.cache.limit // 4):
            return self.take(np.arange(start, start + count), out)
        return self._straight(start, self.empty(count) if out is None else out)

    def _straight(self, start: int, out: Array) -> Array:
        step, row_bytes, count = self.field.chunk_rows, self.field.row_bytes, len(out)
        raw = out.reshape(-1).view(np.uint8)
        first, last = -(-start // step), (start + count) // step
        whole = [chunk for chunk in range(first, last) if self._private(chunk) is None]
        rest = np.ones(count, bool)
        for chunk in whole:
            rest[chunk * step - start:(chunk + 1) * step - start] = False

        def part(low: int, high: int) -> None:
            for chunk in whole[low:high]:
                at = (chunk * step - start) * row_bytes
                self._decode(chunk, raw[at:at + step * row_bytes])
        spread(part, len(whole), 4)
        edges = np.flatnonzero(rest)
        if len(edges):
            out[edges] = self.take(edges + start)
        return out

    def string_ids(self, start: int, count: int) -> list[StringIds]:
        """The strings of a run of addresses, chunk by chunk, as the bytes that keys are made of."""
        step, out = self.field.chunk_rows, []
        for chunk in range(start // step, -(-(start + count) // step)):
            file = self._shard(chunk // self._chunks_per_shard)
            low, high = max(start - chunk * step, 0), min(start + count - chunk * step, step)
            out.append(file.strings(chunk % self._chunks_per_shard).slice(low, high))
        return out

    def verify(self) -> None:
        """Check the stored checksums of all committed shards of this field. ``Corrupt`` at the first that fails."""
        for shard in np.flatnonzero(self._need).tolist():
            self._shard(shard).verify()

    # What one shard must hold, and what it holds.

    def _needed(self, shard: int) -> int:
        """Rows that the shard must cover, from its first."""
        return int(self._need[shard]) if shard < len(self._need) else 0

    def _shard(self, shard: int, keep: bool = True) -> ShardFile:
        """An open shard that covers all its committed rows."""
        file = self._open.get(shard)
        if file is not None and (shard in self._whole or file.rows >= self._needed(shard)):
            return file
        fresh = open_shard(self.storage, self.schema, self.field, shard)
        fresh.check_covered(self._needed(shard))
        with self._lock:
            if fresh.full:
                self._whole.add(shard)
            if keep:
                self._open[shard] = fresh
                self._open.move_to_end(shard)
            while len(self._open) > OPEN_SHARDS:
                # Not closed: another thread may be reading through it. Its last user lets the file go.
                self._open.popitem(last=False)
        return fresh

    # The mapping.

    def _mapped(self) -> Mapped | None:
        """The mapping, with a place for every committed shard; None where the cache serves this field."""
        mapped = self._map
        if not self._may_map or mapped is not None and mapped.shards >= len(self._need):
            return mapped
        with self._lock:
            wanted = len(self._need)
            if self._may_map and (self._map is None or self._map.shards < wanted):
                # Arrays that were given out keep the old range; the new one maps the same files again.
                self._map = self._reserve(2 * wanted + SPARE_SHARDS) or self._reserve(wanted)
                self._may_map = self._map is not None
            return self._map

    def _reserve(self, shards: int) -> Mapped | None:
        try:
            return Mapped(self.schema, self.field, shards)
        except OSError as error:
            log.debug("%s: %d shards can't be reserved (%s)", self.field.name, shards, error)
            return None

    def _reach(self, mapped: Mapped, addresses: Int64s) -> bool:
        """Make these addresses ready; False where the system refuses."""
        if mapped.complete is self._need:
            return True
        shards = addresses // self.rows_per_shard
        lacking = addresses - shards * self.rows_per_shard >= mapped.ready[shards]
        return not lacking.any() or self._place(mapped, np.unique(shards[lacking]))

    def _place(self, mapped: Mapped, shards: Int64s) -> bool:
        for shard in shards[mapped.ready[shards] < self._need[shards]].tolist():
            with self._lock:
                if mapped.ready[shard] >= self._need[shard]:
                    continue
                try:
                    mapped.place(shard, self._shard(shard, keep=False))
                except (Corrupt, MemoryError):
                    raise
                except OSError as error:
                    log.debug("%s can't be mapped (%s); its chunks are cached instead", self.field.name, error)
                    self._map, self._may_map = None, False
                    return False
        need = self._need
        if len(need) <= mapped.shards and (mapped.ready[:len(need)] >= need).all():
            mapped.complete = need
        return True

    # Decoded chunks.

    def _the_arena(self) -> Arena:
        if self._arena is None:
            with self._lock:
                if self._arena is None:
                    field = self.field
                    self._arena = self.cache.arena(field.chunk_rows, field.shape, field.numpy_dtype, self._decode,
                                                   self._private, -(-self._extents.end // field.chunk_rows))
        return self._arena

    def _decode(self, chunk: int, out: Array) -> None:
        shard, inner = divmod(chunk, self._chunks_per_shard)
        self._shard(shard).chunk_into(inner, out)

    def _private(self, chunk: int) -> Array | None:
        """The rows of a chunk that its shard does not cover to the end, else None. They stay out of the cache, for the
        rest of the chunk will be other bytes soon."""
        shard, inner = divmod(chunk, self._chunks_per_shard)
        if shard in self._whole:
            return None
        file = self._shard(shard)
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

    def _text(self, chunk: int) -> Array:
        shard, inner = divmod(chunk, self._chunks_per_shard)
        kept = self._texts.get(chunk)
        step = self.field.chunk_rows
        if kept is not None and (kept[0] == step or kept[0] >= min(self._needed(shard) - inner * step, step)):
            return kept[1]
        file = self._shard(shard)
        rows = file.texts(inner)
        self._keep(self._texts, chunk, (min(file.rows - inner * step, step), rows), TEXT_CHUNKS)
        return rows

    def _keep(self, kept: OrderedDict[int, tuple[int, Array]], chunk: int, value: tuple[int, Array], most: int) -> None:
        with self._lock:
            kept[chunk] = value
            kept.move_to_end(chunk)
            while len(kept) > most:
                kept.popitem(last=False)

    def _by_chunk(self, addresses: Int64s) -> list[tuple[int, Array | slice, Array]]:
        """The addresses by chunk: ``(chunk, places in the result, rows within the chunk)``."""
        chunks = addresses // self.field.chunk_rows
        within = addresses - chunks * self.field.chunk_rows
        if not len(chunks):
            return []
        ascending = len(chunks) == 1 or bool((chunks[1:] >= chunks[:-1]).all())
        order = None if ascending else np.argsort(chunks, kind="stable")
        in_order = chunks if order is None else chunks[order]
        bounds = np.append(np.flatnonzero(np.diff(in_order, prepend=-1)), len(chunks)).tolist()
        places = [slice(a, b) if order is None else order[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
        return [(int(in_order[a]), place, within[place]) for a, place in zip(bounds[:-1], places, strict=True)]


def _gather(source: Array, index: Int64s, out: Array) -> None:
    def part(low: int, high: int) -> None:
        np.take(source, index[low:high], axis=0, out=out[low:high], mode="clip")
    spread(part, len(index), max(PARALLEL_BYTES * len(index) // max(out.nbytes, 1), 1))


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
    for column in list(_columns):
        column._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
