"""One field's shards and chunks: opened, checked against what was committed, decoded."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from zstore._typing import Array, Int64s
from zstore.arena import Decode, Private
from zstore.errors import Corrupt
from zstore.format.extents import Extents
from zstore.format.keys import StringIds
from zstore.format.schema import Field, Schema
from zstore.shards.read import Place, ShardFile, Stored, open_shard
from zstore.storage.base import Storage
from zstore.storage.chunk_cache import ChunkCache
from zstore.storage.ranges import at_once

OPEN_SHARDS = 64            # handles kept open per field
OPEN_DISTANT = 512          # the same where a handle is no descriptor, and opening is a request
SLAB_BYTES = 1 << 25        # stored bytes brought at once from a distant storage
SLAB_CHUNKS = 1024
TEXT_CHUNKS = 64            # decoded string chunks kept per field
PARTIAL_CHUNKS = 64
_all: weakref.WeakSet[Chunks] = weakref.WeakSet()
Known: TypeAlias = Callable[[str, int], bool]
Brought: TypeAlias = Mapping[int, tuple[ShardFile, Stored]]
NOTHING: Brought = {}


class Chunks:
    """The shards of one field, a few of them open. Safe among threads and in forked children.

    ``lock`` guards whatever is made once. Of a distant storage, chunks are brought many at once before they are decoded
    (``slabs``, ``ahead``), and ``kept`` keeps them nearer. ``known`` says whether a session is one of the log: what any other
    wrote is not this store's.
    """

    def __init__(self, storage: Storage, schema: Schema, field: Field, kept: ChunkCache | None = None,
                 known: Known | None = None) -> None:
        self.storage, self.schema, self.field, self._kept, self._known = storage, schema, field, kept, known
        self._most_open = OPEN_DISTANT if storage.distant else OPEN_SHARDS
        self.rows_per_shard = schema.rows_per_shard
        self.extents = Extents()
        self._need: Int64s | None = None
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
                self._need = None

    @property
    def need(self) -> Int64s:
        """How many rows each shard must cover, from its first. Made when it is asked for, and the same array until
        ``cover`` changes it: what a record says costs nothing before a row is read."""
        need = self._need
        if need is None:
            with self.lock:
                need = self._need = _rows_needed(self.extents, self.rows_per_shard)
        return need

    def needed(self, shard: int) -> int:
        """Rows that the shard must cover, from its first."""
        need = self.need
        return int(need[shard]) if shard < len(need) else 0

    def shard(self, shard: int, keep: bool = True) -> ShardFile:
        """An open shard that covers all its committed rows."""
        file = self._open.get(shard)
        if file is not None and (shard in self.whole or file.rows >= self.needed(shard)):
            return file
        fresh = open_shard(self.storage, self.schema, self.field, shard)
        fresh.check_covered(self.needed(shard))
        if self._known is not None and not self._known(fresh.end.session, shard):
            raise Corrupt(fresh.name, "the shard was written by a session that this log does not have: it comes from a copy "
                          "of the store that went another way", actual=fresh.end.session)
        with self.lock:
            if fresh.full:
                self.whole.add(shard)
            if keep:
                self._open[shard] = fresh
                self._open.move_to_end(shard)
            while len(self._open) > self._most_open:
                # Not closed: another thread may be reading through it. Its last user lets the file go.
                self._open.popitem(last=False)
        return fresh

    def decode(self, chunks: Int64s, out: Array, places: Int64s, brought: Brought = NOTHING) -> None:
        """Decode whole chunks, ascending, into ``out`` (uint8, contiguous), each at its place."""
        if brought:
            size = self.field.chunk_rows * self.field.row_bytes
            for chunk, at in zip(chunks.tolist(), places.tolist(), strict=True):
                file, inner, stored = self._of(chunk, brought)
                file.chunk_into(inner, out[at:at + size], stored)
            return
        shards = chunks // self._chunks_per_shard
        cuts = [*np.flatnonzero(np.diff(shards, prepend=-1)).tolist(), len(chunks)]
        for low, high in pairwise(cuts):
            shard = int(shards[low])
            self.shard(shard).chunks_into(chunks[low:high] - shard * self._chunks_per_shard, out, places[low:high])

    def private(self, chunks: Int64s, brought: Brought = NOTHING) -> dict[int, Array]:
        """The rows of those of the chunks that their shards do not cover to the end. They stay out of the cache, for the
        rest of such a chunk will be other bytes soon."""
        shards = np.unique(chunks // self._chunks_per_shard).tolist()
        if self.whole.issuperset(shards):
            return {}
        found = {}
        for chunk in chunks.tolist():
            if chunk // self._chunks_per_shard not in self.whole:
                rows = self._private(chunk, brought)
                if rows is not None:
                    found[chunk] = rows
        return found

    def _private(self, chunk: int, brought: Brought) -> Array | None:
        file, inner, stored = self._of(chunk, brought)
        covered = min(file.rows - inner * self.field.chunk_rows, self.field.chunk_rows)
        if covered == self.field.chunk_rows:
            return None
        kept = self._partial.get(chunk)
        if kept is not None and kept[0] >= covered:
            return kept[1]
        raw = np.empty(self.field.chunk_rows * self.field.row_bytes, np.uint8)
        file.chunk_into(inner, raw, stored)
        rows = raw.view(self.field.numpy_dtype).reshape(-1, *self.field.shape)
        self._keep(self._partial, chunk, (covered, rows), PARTIAL_CHUNKS)
        return rows

    def text(self, chunk: int, brought: Brought = NOTHING) -> Array:
        """The strings of one chunk, (chunk_rows,) StringDType; those behind the committed rows mean nothing."""
        kept = self._texts.get(chunk)
        if kept is not None and self._suffices(chunk, kept):
            return kept[1]
        file, inner, stored = self._of(chunk, brought)
        # Counted before: the shard may be opened again, longer, by another thread while this one reads.
        covered = min(file.rows - inner * self.field.chunk_rows, self.field.chunk_rows)
        rows = file.texts(inner, stored)
        self._keep(self._texts, chunk, (covered, rows), TEXT_CHUNKS)
        return rows

    def strings(self, chunk: int, brought: Brought = NOTHING) -> StringIds:
        """The strings of one chunk as the bytes that keys are made of, its padding too."""
        file, inner, stored = self._of(chunk, brought)
        return file.strings(inner, stored)

    def verify(self, shard: int) -> None:
        """Check the stored checksums of a shard; of a distant one its chunks, as they are in the store."""
        if not self.storage.distant:
            self.shard(shard).verify()
            return
        first = shard * self._chunks_per_shard
        chunks = range(first, first - (-self.shard(shard).rows // self.field.chunk_rows))
        raw = np.empty(self.field.chunk_rows * self.field.row_bytes, np.uint8)
        for part, brought in self.slabs(chunks, fresh=True):
            self.decode(np.asarray(part), raw, np.zeros(len(part), np.int64), brought)

    # Bringing many chunks at once.

    def slabs(self, chunks: Sequence[int], fresh: bool = False) -> Iterator[tuple[Sequence[int], Brought]]:
        """These chunks, in order, in parts, each with the stored bytes that were brought for it; of a near storage all at
        once, and nothing. ``fresh`` goes past what is kept here."""
        if not self.storage.distant:
            yield chunks, NOTHING
            return
        at = 0
        while at < len(chunks):
            count, brought = self._bring(chunks[at:at + SLAB_CHUNKS], fresh)
            yield chunks[at:at + count], brought
            at += count

    def ahead(self, chunks: Sequence[int]) -> tuple[Decode, Private]:
        """Bring these chunks; ``decode`` and ``private`` that take them from there."""
        brought = self._bring(chunks)[1]
        return partial(self.decode, brought=brought), partial(self.private, brought=brought)

    def _bring(self, chunks: Sequence[int], fresh: bool = False, again: bool = True) -> tuple[int, Brought]:
        """How many of these chunks, from the first, are at hand now, and the stored bytes of those that were brought. What
        is not among them, because it is damaged, is for the one who reads it to say."""
        wanted = [chunk for chunk in chunks if fresh or not self._at_hand(chunk)]
        shards = list(dict.fromkeys(chunk // self._chunks_per_shard for chunk in wanted))
        files: dict[int, ShardFile] = {}

        def opened(shard: int) -> None:
            files[shard] = self.shard(shard)
        at_once([partial(opened, shard) for shard in shards])
        brought: dict[int, tuple[ShardFile, Stored]] = {}
        places: list[tuple[int, ShardFile, Place, bytes | None]] = []
        count, size = len(chunks), 0
        for chunk in wanted:
            shard, inner = divmod(chunk, self._chunks_per_shard)
            try:
                place = files[shard].place(inner)
            except Corrupt:
                continue
            size += place.length
            if size > SLAB_BYTES and (brought or places):
                count = chunks.index(chunk)
                break
            key = None if self._kept is None or fresh else files[shard].identity(inner, place)
            data = None if self._kept is None or key is None else self._kept.get(key, place.length)
            if data is None:
                places.append((chunk, files[shard], place, key))
            else:
                brought[chunk] = files[shard], Stored(place.end, data)
        try:
            found = self.storage.read_ranges([(place.handle, place.offset, place.length) for _, _, place, _ in places])
        except OSError as error:
            if not again:
                raise
            # A tail was rewritten meanwhile: begin again, once, from the ends.
            at_once([partial(file.begin_again, error) for file in {id(file): file for _, file, _, _ in places}.values()])
            return self._bring(chunks, fresh, again=False)
        for (chunk, file, place, _), data in zip(places, found, strict=True):
            brought[chunk] = file, Stored(place.end, data)
        if self._kept is not None:
            self._kept.put([(key, data) for (chunk, file, place, key), data in zip(places, found, strict=True)
                            if key is not None and file.sound(chunk % self._chunks_per_shard, place, data)])
        return count, brought

    def _at_hand(self, chunk: int) -> bool:
        kept = (self._texts if self.field.is_string else self._partial).get(chunk)
        return kept is not None and self._suffices(chunk, kept)

    def _suffices(self, chunk: int, kept: tuple[int, Array]) -> bool:
        shard, inner = divmod(chunk, self._chunks_per_shard)
        step = self.field.chunk_rows
        return kept[0] == step or kept[0] >= min(self.needed(shard) - inner * step, step)

    def _of(self, chunk: int, brought: Brought) -> tuple[ShardFile, int, Stored | None]:
        shard, inner = divmod(chunk, self._chunks_per_shard)
        given = brought.get(chunk)
        return (self.shard(shard), inner, None) if given is None else (given[0], inner, given[1])

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
