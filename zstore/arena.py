"""Decoded chunks of fixed-width fields, kept in memory that forked children share.

An *arena* holds one field: equal slots of one chunk each, in one array, so that a gather is one ``np.take``. Readers
take no lock. Each slot carries a *stamp*, its chunk and a generation; 0 says that it holds nothing. The order of steps is
the whole proof that no reader sees a torn row:

    an evictor      stamp = 0, then evictions += 1, then generation += 1, then other bytes, then the new stamp
    a reader        reads evictions, then the stamps; copies; reads evictions again, and where it moved the stamps too

A reader that began before "evictions += 1" sees it move; one that began after it sees the stamp 0. A chunk that left a
slot and came back to it has another generation. A filler that is killed leaves slots of stamp 0, which hold nothing.

Only whole chunks are kept. An address is given to one row once, for ever, so what is kept never goes stale.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from zstore._typing import Array, Int64s
from zstore.forklock import ForkLock
from zstore.storage.pages import shared
from zstore.threads import spread

Decode = Callable[[int, Array], None]
Private = Callable[[int], "Array | None"]
Ahead = Callable[["list[int]"], "tuple[Decode, Private]"]

PIECE = 64                      # chunks filled under one lock
AHEAD_BYTES = 1 << 24           # decoded bytes filled under one lock where chunks are brought many at once
LEAST = 8                       # slots that an arena may have whatever the limit says, to get on at all
PARALLEL_BYTES = 1 << 20        # below it the calling thread copies alone
_HIGH, _USED, _HAND, _EVICTIONS, _DECODED, _HITS, _FULL, _BUSY = range(8)
_CHUNK = (1 << 40) - 1


class Budget(Protocol):
    """Who says how many bytes all arenas together may take."""

    limit: int

    @property
    def nbytes(self) -> int: ...

    def __len__(self) -> int: ...

    def reclaim(self, nbytes: int, asking: Arena) -> None: ...


class Arena:
    """The chunks of one field. Any thread, and any process forked after it was made, may call ``take``.

    ``decoded`` (chunks) and ``hits`` (rows found) count for all of these processes; the second loses a few in races.
    """

    def __init__(self, cache: Budget, chunk_rows: int, shape: tuple[int, ...], dtype: np.dtype[Any], decode: Decode,
                 private: Private, chunks: int, ahead: Ahead | None = None) -> None:
        self._cache, self._decode, self._private, self._ahead, self.chunk_rows = cache, decode, private, ahead, chunk_rows
        self.slot_bytes = chunk_rows * dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        self._lock = ForkLock()
        self.slots, self._bytes = _reserve(max(cache.limit // self.slot_bytes, LEAST), self.slot_bytes)
        self._rows = self._bytes.view(dtype).reshape(-1, *shape)
        self._stamps = shared(8 * self.slots).view(np.int64)
        self._generations = shared(4 * self.slots).view(np.int32)
        self._touched = shared(self.slots)
        self._slot_of = shared(4 * max(4 * chunks, 1 << 16)).view(np.int32)
        self._counters = shared(8 * 8).view(np.int64)

    @property
    def used(self) -> int:
        return int(self._counters[_USED])

    @property
    def decoded(self) -> int:
        return int(self._counters[_DECODED])

    @property
    def hits(self) -> int:
        return int(self._counters[_HITS])

    def take(self, chunks: Int64s, within: Int64s, out: Array) -> None:
        """Copy row ``within[i]`` of chunk ``chunks[i]`` to ``out[i]``; ``out`` is ``(n, *shape)``, contiguous.

        Raises what ``decode`` raises; ``out`` is then half written.
        """
        if not len(chunks):
            return
        self._grow(int(chunks.max()) + 1)
        pending = self._warm(chunks, within, out)
        if pending is not None:
            self._cold(chunks, within, out, pending)

    def one(self, chunk: int, within: int) -> Array | None:
        """A copy of one row, ``(*shape)``, or None where its chunk is not here."""
        if chunk >= len(self._slot_of):
            return None
        before = self._counters[_EVICTIONS]
        slot = self._slot_of[chunk]
        stamp = self._stamps[slot]
        if stamp & _CHUNK != chunk + 1:
            return None
        row: Array = self._rows[int(slot) * self.chunk_rows + within].copy()
        if self._counters[_FULL]:
            self._touched[slot] = 1
        return row if self._counters[_EVICTIONS] == before or self._stamps[slot] == stamp else None

    def _warm(self, chunks: Int64s, within: Int64s, out: Array) -> Int64s | None:
        """Copy what is here; the places in ``out`` that remain, or None."""
        before = int(self._counters[_EVICTIONS])
        slots = self._slot_of[chunks]
        stamps = self._stamps[slots]
        good = (stamps & _CHUNK) == chunks + 1
        if self._counters[_FULL]:
            self._touched[slots] = 1
        everything = bool(good.all())
        if everything:
            self._copy(slots * np.int64(self.chunk_rows) + within, out)
        elif good.any():
            index = slots[good] * np.int64(self.chunk_rows) + within[good]
            out[good] = self._rows[index]
        if int(self._counters[_EVICTIONS]) != before:
            good &= self._stamps[slots] == stamps
            everything = bool(good.all())
        if everything:
            self._counters[_HITS] += len(chunks)
            return None
        pending = np.flatnonzero(~good)
        self._counters[_HITS] += len(chunks) - len(pending)
        return pending

    def _copy(self, index: Int64s, out: Array) -> None:
        def part(low: int, high: int) -> None:
            np.take(self._rows, index[low:high], axis=0, out=out[low:high], mode="clip")
        spread(part, len(index), max(PARALLEL_BYTES * len(index) // max(out.nbytes, 1), 1))

    def _cold(self, chunks: Int64s, within: Int64s, out: Array, pending: Int64s) -> None:
        """Chunk by chunk in order, in pieces: fill, and copy before anyone can evict."""
        pending = pending[np.argsort(chunks[pending], kind="stable")]
        wanted = chunks[pending]
        firsts = np.flatnonzero(np.diff(wanted, prepend=-1))
        bounds = np.append(firsts, len(wanted))
        distinct = wanted[firsts]
        at = 0
        while at < len(distinct):
            end = min(at + self._piece(), len(distinct))
            rows = pending[bounds[at]:bounds[end]]
            # Before the lock is taken: the rest need not wait while we wait for a server.
            work = (self._decode, self._private) if self._ahead is None else self._ahead(self._lacking(distinct[at:end]))
            self._fill_and_copy(distinct[at:end], np.diff(bounds[at:end + 1]), rows, within[rows], out, *work)
            at = end

    def _piece(self) -> int:
        room = (self._cache.limit - self._cache.nbytes) // self.slot_bytes + self.used
        most = PIECE if self._ahead is None else max(PIECE, AHEAD_BYTES // self.slot_bytes)
        return int(max(LEAST, min(most, room, self.slots)))

    def _lacking(self, chunks: Int64s) -> list[int]:
        found: list[int] = chunks[(self._stamps[self._slot_of[chunks]] & _CHUNK) != chunks + 1].tolist()
        return found

    def _fill_and_copy(self, chunks: Int64s, counts: Int64s, places: Int64s, within: Int64s, out: Array, decode: Decode,
                       private: Private) -> None:
        own = [private(chunk) for chunk in chunks.tolist()]
        stay = np.array([rows is None for rows in own], bool)
        starts = np.cumsum(counts) - counts
        for rows, start, count in zip(own, starts.tolist(), counts.tolist(), strict=True):
            if rows is not None:
                out[places[start:start + count]] = rows[within[start:start + count]]
        if not stay.any():
            return
        kept = np.repeat(stay, counts)
        with self._lock.held():
            slots = self._fill(chunks[stay], decode)
            index = np.repeat(slots, counts[stay]) * self.chunk_rows + within[kept]
            out[places[kept]] = self._rows[index]

    def _fill(self, chunks: Int64s, decode: Decode) -> Int64s:
        """The slot of each of these distinct chunks, decoding those that are missing. The lock is held."""
        if self._counters[_BUSY]:       # a filler was killed: what it had taken is free
            self._counters[_USED] = np.count_nonzero(self._stamps[:int(self._counters[_HIGH])])
        self._counters[_BUSY] = 1
        slots = self._slot_of[chunks].astype(np.int64)
        missing = np.flatnonzero((self._stamps[slots] & _CHUNK) != chunks + 1)
        if len(missing):
            here = np.delete(slots, missing)
            slots[missing] = fresh = self._allocate(len(missing), here)
            todo, size = chunks[missing].tolist(), self.slot_bytes

            def part(low: int, high: int) -> None:
                for chunk, slot in zip(todo[low:high], fresh[low:high].tolist(), strict=True):
                    decode(chunk, self._bytes[slot * size:(slot + 1) * size])
            spread(part, len(todo), 4)
            # Only now, when the bytes are all there, does anyone hear of them.
            self._stamps[fresh] = ((self._generations[fresh].astype(np.int64) & 0x3FFFFF) << 40) | (chunks[missing] + 1)
            self._slot_of[chunks[missing]] = fresh
            self._counters[_USED] += len(fresh)
            self._counters[_DECODED] += len(fresh)
        self._counters[_BUSY] = 0
        return slots

    def _allocate(self, count: int, pinned: Int64s) -> Int64s:
        """Slots of stamp 0, by leave of the limit, else from the clock."""
        share = self._cache.limit // max(len(self._cache), 1)
        lacking = (count * self.slot_bytes) - (self._cache.limit - self._cache.nbytes)
        if lacking > 0 and (self.used + count) * self.slot_bytes <= share:
            self._cache.reclaim(lacking, self)
        room = max((self._cache.limit - self._cache.nbytes) // self.slot_bytes, LEAST - self.used, 0)
        free = self._free(min(count, room))
        if len(free) < count:
            self._counters[_FULL] = 1
            self._evict(count - len(free), pinned)
            free = self._free(count)
        if len(free) < count:                       # fewer slots than one piece: the clock had nothing to give
            raise MemoryError(f"the chunk cache has {self.slots} slots, and {count} are needed at once")
        return free

    def _free(self, count: int) -> Int64s:
        """Up to ``count`` slots that hold nothing; those that held something before come first."""
        high = int(self._counters[_HIGH])
        old = np.flatnonzero(self._stamps[:high] == 0)[:count] if self.used < high else np.zeros(0, np.int64)
        fresh = min(count - len(old), self.slots - high)
        self._counters[_HIGH] = high + fresh
        return np.concatenate([old, np.arange(high, high + fresh)])

    def _evict(self, count: int, pinned: Int64s) -> Int64s:
        """Empty about ``count`` slots: those that no reader touched since the hand last passed them."""
        high, hand = int(self._counters[_HIGH]), int(self._counters[_HAND])
        found: list[Int64s] = []
        passed = 0
        while count > 0 and passed < 2 * high:
            stop = min(hand + max(1024, 4 * count), high)
            window = np.arange(hand, stop)
            held = self._stamps[hand:stop] != 0
            idle = window[held & (self._touched[hand:stop] == 0)]
            idle = idle[~np.isin(idle, pinned)][:count]
            stop = int(idle[-1]) + 1 if len(idle) == count else stop
            self._touched[hand:stop] = 0
            self._empty(idle)
            found.append(idle)
            count -= len(idle)
            passed += stop - hand
            hand = stop if stop < high else 0
        self._counters[_HAND] = hand
        if count > 0:           # readers touch them faster than the hand comes round: take some all the same
            rest = np.flatnonzero(self._stamps[:high] != 0)
            rest = rest[~np.isin(rest, pinned)][:count]
            self._empty(rest)
            found.append(rest)
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def _empty(self, slots: Int64s) -> None:
        self._stamps[slots] = 0
        self._counters[_EVICTIONS] += 1
        self._generations[slots] += 1
        self._counters[_USED] -= len(slots)

    def give_up(self, count: int) -> None:
        """Let another arena have the memory of ``count`` slots, if nobody fills here just now."""
        with self._lock.tried() as held:
            if held:
                slots = self._evict(min(count, self.used - LEAST), np.zeros(0, np.int64))
                self._counters[_FULL] = 1
                for slot in slots.tolist():
                    _release(self._bytes, slot * self.slot_bytes, self.slot_bytes)

    def _grow(self, chunks: int) -> None:
        """Room for higher chunk numbers. A process forked before keeps its own, shorter table, and decodes alone."""
        if chunks > len(self._slot_of):
            with self._lock.held():
                table = shared(4 * max(2 * len(self._slot_of), 2 * chunks)).view(np.int32)
                table[:len(self._slot_of)] = self._slot_of
                self._slot_of = table


def _reserve(slots: int, slot_bytes: int) -> tuple[int, Array]:
    """Pages for as many slots as the system lets us name; none is touched yet."""
    while True:
        try:
            return slots, shared(slots * slot_bytes)
        except (OSError, ValueError, OverflowError):
            if slots <= LEAST:
                raise
            slots = max(slots // 2, LEAST)


def _release(pages: Array, at: int, length: int) -> None:
    """Give whole pages back to the system; they read as zeros afterwards, and the stamps say that nothing is there."""
    base: Any = pages
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    low = -(-at // mmap.PAGESIZE) * mmap.PAGESIZE
    high = (at + length) // mmap.PAGESIZE * mmap.PAGESIZE
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_REMOVE") and low < high:
        base.madvise(mmap.MADV_REMOVE, low, high - low)
