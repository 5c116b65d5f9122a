"""One field's addresses, as values: mapped where the shards are raw files, decoded into the cache elsewhere.

Which rows exist is decided by extents, before anyone comes here: ``Column`` is asked for committed addresses only, and
a shard that does not hold them is ``Corrupt``, never a fill.
"""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import Any

import numpy as np

from zstore._typing import Array, Int64s
from zstore.cache import PARALLEL_BYTES, Arena, Cache
from zstore.chunks import Brought, Chunks, Known
from zstore.errors import Corrupt
from zstore.format.extents import Extents
from zstore.format.keys import StringIds
from zstore.format.schema import TILE, Field, Schema
from zstore.mapped import Mapped
from zstore.storage.base import Storage
from zstore.storage.chunk_cache import ChunkCache
from zstore.storage.pages import PAGE
from zstore.threads import spread

log = logging.getLogger("zstore")

_TEXT = np.dtypes.StringDType()
STRAIGHT_BYTES = 1 << 22     # longer spans would fill the cache with what the caller keeps anyway
PASS_BYTES = 1 << 26         # a run no longer than this is read in order: it is a batch
SPARE_SHARDS = 256          # reserved beyond twice the present length; a reservation costs no memory


class Column:
    """The values of one field. It lives across refreshes and is safe among threads and in forked children.

    Every gather is a new array of shape ``(n, *field.shape)`` and ``field.numpy_dtype`` (StringDType for strings).
    """

    def __init__(self, storage: Storage, schema: Schema, field: Field, cache: Cache, kept: ChunkCache | None = None,
                 known: Known | None = None) -> None:
        self.schema, self.field, self.cache = schema, field, cache
        self._chunks = Chunks(storage, schema, field, kept, known)
        self._dtype: np.dtype[Any] = _TEXT if field.is_string else field.numpy_dtype
        self._arena: Arena | None = None
        self._map: Mapped | None = None
        self._may_map = not (field.is_string or storage.distant) and schema.is_mappable(field) and TILE % PAGE == 0

    def cover(self, extents: Extents) -> None:
        """These addresses are committed: shards that hold fewer are ``Corrupt`` from now on."""
        self._chunks.cover(extents)

    def run(self, start: int, count: int) -> Array | None:
        """The rows of ``[start, start + count)``, a read-only view, no copy; None where that can't be."""
        if count <= 0:
            return self.empty(0)
        mapped = self._mapped()
        first, last = start // self.schema.rows_per_shard, (start + count - 1) // self.schema.rows_per_shard
        if mapped is None or not self._place(mapped, np.arange(first, last + 1)):
            return None
        if count * self.field.row_bytes <= PASS_BYTES:      # who takes more at once may be after single rows of it
            mapped.pass_over(start, count)
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
            groups = {chunk: (places, within) for chunk, places, within in self._by_chunk(addresses)}
            for part, brought in self._chunks.slabs(list(groups)):
                for chunk in part:
                    places, within = groups[chunk]
                    out[places] = self._chunks.text(chunk, brought)[within]
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
            return self._chunks.text(chunk)[within]                # type: ignore[no-any-return]
        mapped = self._map
        if mapped is not None and address < len(mapped.rows) and (
                mapped.complete is self._chunks.need
                or address % self.schema.rows_per_shard < mapped.ready[address // self.schema.rows_per_shard]):
            return mapped.rows[address].copy()              # type: ignore[no-any-return]
        if self._arena is not None:
            chunk, within = divmod(address, self.field.chunk_rows)
            row = self._arena.one(chunk, within)
            if row is not None:
                return row
        return self.take(np.array([address]))[0]            # type: ignore[no-any-return]

    def span(self, start: int, count: int, out: Array | None = None) -> Array:
        """The rows of ``[start, start + count)``, copied. A long span that is not in the cache is decoded straight into the
        result, past it."""
        if (self.field.is_string or self._mapped() is not None or count * self.field.row_bytes <= self._short_bytes
                or self._is_cached(start, count)):
            return self.take(np.arange(start, start + count), out)
        return self._straight(start, self.empty(count) if out is None else out)

    def runs(self, extents: Extents) -> Array:
        """The rows of these extents, in order, copied; of a distant storage many short runs at once."""
        out, offsets, first = self.empty(len(extents)), extents.offsets, 0
        most = self._short_bytes // (self.field.row_bytes or 64) if self._chunks.storage.distant else 0
        while first < len(extents.starts):
            last = max(int(np.searchsorted(offsets, offsets[first] + most, "right")) - 1, first + 1)
            low, high = int(offsets[first]), int(offsets[last])
            if last == first + 1:
                self.span(int(extents.starts[first]), high - low, out[low:high])
            else:
                self.take(extents.addresses(np.arange(low, high)), out[low:high])
            first = last
        return out

    def _is_cached(self, start: int, count: int) -> bool:
        step, arena = self.field.chunk_rows, self._arena
        return arena is not None and arena.holds(start // step, -(-(start + count) // step))

    @property
    def _short_bytes(self) -> int:
        return min(self.cache.limit // 4, STRAIGHT_BYTES)

    def _straight(self, start: int, out: Array) -> Array:
        step, row_bytes, count = self.field.chunk_rows, self.field.row_bytes, len(out)
        raw = out.reshape(-1).view(np.uint8)
        first, last = -(-start // step), (start + count) // step
        rest = np.ones(count, bool)
        for chunks, brought in self._chunks.slabs(range(first, last)):
            private = self._chunks.private(np.asarray(chunks), brought)
            whole = np.array([chunk for chunk in chunks if chunk not in private], np.int64)
            places = (whole * step - start) * row_bytes
            for chunk in whole.tolist():
                rest[chunk * step - start:(chunk + 1) * step - start] = False

            def part(low: int, high: int, whole: Int64s = whole, places: Int64s = places, brought: Brought = brought) -> None:
                self._chunks.decode(whole[low:high], raw, places[low:high], brought)
            spread(part, len(whole), 4)
        edges = np.flatnonzero(rest)
        if len(edges):
            out[edges] = self.take(edges + start)
        return out

    def string_ids(self, start: int, count: int) -> list[StringIds]:
        """The strings of a run of addresses, chunk by chunk, as the bytes that keys are made of."""
        step, out = self.field.chunk_rows, []
        for part, brought in self._chunks.slabs(range(start // step, -(-(start + count) // step))):
            for chunk in part:
                low, high = max(start - chunk * step, 0), min(start + count - chunk * step, step)
                out.append(self._chunks.strings(chunk, brought).slice(low, high))
        return out

    def verify(self) -> None:
        """Check the stored checksums of all committed shards of this field. ``Corrupt`` at the first that fails."""
        for shard in np.flatnonzero(self._chunks.need).tolist():
            self._chunks.verify(shard)

    # The mapping.

    def _mapped(self) -> Mapped | None:
        """The mapping, with a place for every committed shard; None where the cache serves this field."""
        mapped = self._map
        if not self._may_map or (mapped is not None and mapped.shards >= len(self._chunks.need)):
            return mapped
        with self._chunks.lock:
            wanted = len(self._chunks.need)
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
        if mapped.complete is self._chunks.need:
            return True
        shards = addresses // self.schema.rows_per_shard
        lacking = addresses - shards * self.schema.rows_per_shard >= mapped.ready[shards]
        return not lacking.any() or self._place(mapped, np.unique(shards[lacking]))

    def _place(self, mapped: Mapped, shards: Int64s) -> bool:
        for shard in shards[mapped.ready[shards] < self._chunks.need[shards]].tolist():
            with self._chunks.lock:
                if mapped.ready[shard] >= self._chunks.need[shard]:
                    continue
                try:
                    mapped.place(shard, self._chunks.shard(shard, keep=False))
                except (Corrupt, MemoryError):
                    raise
                except OSError as error:
                    log.debug("%s can't be mapped (%s); its chunks are cached instead", self.field.name, error)
                    self._map, self._may_map = None, False
                    return False
        need = self._chunks.need
        if len(need) <= mapped.shards and (mapped.ready[:len(need)] >= need).all():
            mapped.complete = need
        return True

    # Decoded chunks.

    def _the_arena(self) -> Arena:
        if self._arena is None:
            with self._chunks.lock:
                if self._arena is None:
                    field = self.field
                    self._arena = self.cache.arena(
                        field.chunk_rows, field.shape, field.numpy_dtype, self._chunks.decode, self._chunks.private,
                        -(-self._chunks.extents.end // field.chunk_rows),
                        self._chunks.ahead if self._chunks.storage.distant else None)
        return self._arena

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
        places = [slice(a, b) if order is None else order[a:b] for a, b in pairwise(bounds)]
        return [(int(in_order[a]), place, within[place]) for a, place in zip(bounds[:-1], places, strict=True)]


def _gather(source: Array, index: Int64s, out: Array) -> None:
    def part(low: int, high: int) -> None:
        np.take(source, index[low:high], axis=0, out=out[low:high], mode="clip")
    spread(part, len(index), max(PARALLEL_BYTES * len(index) // max(out.nbytes, 1), 1))
