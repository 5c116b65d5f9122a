"""Decoded chunks of fixed-width fields, kept in memory that forked children share.

An *arena* holds one field: equal slots of one chunk each, in one array, so that a gather is one ``np.take``. Readers
take no lock. Each slot carries a *stamp*, its chunk and a generation; 0 says that it holds nothing. The order of steps is
the whole proof that no reader sees a torn row:

    an evictor      stamp = 0, then evictions += 1, then generation += 1, then other bytes, then the new stamp
    a reader        reads evictions, then the stamps; copies; reads evictions again, and where it moved the stamps too

A reader that began before "evictions += 1" sees it move; one that began after it sees the stamp 0. A chunk that left a
slot and came back to it has another generation. A filler that is killed leaves slots of stamp 0, which hold nothing.

Only whole chunks are kept, and of those that one large scattered gather touched, only those that are asked for again. An
is given to one row once, for ever, so what is kept never goes stale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from zstore._typing import Array, Int64s
from zstore.forklock import ForkLock
from zstore.storage.pages import release, shared, shared_slots
from zstore.threads import spread
from zstore.wanted import Wanted

Bools = npt.NDArray[np.bool_]
Decode = Callable[[Int64s, Array, Int64s], None]
Private = Callable[[Int64s], "dict[int, Array]"]
Ahead = Callable[["list[int]"], "tuple[Decode, Private]"]

PIECE, PIECE_BYTES = 64, 1 << 24    # chunks filled under one lock: so many, or more if they are so small
SCATTERED = 64                  # fewer chunks are always kept
SCRATCH_BYTES = 1 << 21         # what a thread decodes past the arena at once
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
        self.slots, self._bytes = shared_slots(max(cache.limit // self.slot_bytes, LEAST), self.slot_bytes, LEAST)
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

    def holds(self, first: int, last: int) -> bool:
        """Whether all the chunks ``[first, last)`` are here just now."""
        return last <= len(self._slot_of) and bool(self._here(np.arange(first, last)).all())

    def _here(self, chunks: Int64s) -> Bools:
        found: Bools = (self._stamps[self._slot_of[chunks]] & _CHUNK) == chunks + 1
        return found

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
        wanted = Wanted.of(chunks, within, pending)
        if self._ahead is None and self._is_scattered(wanted):
            first = np.repeat(self._slot_of[wanted.chunks] == 0, wanted.counts)
            self._pass_by(Wanted.of(chunks, within, pending[first]), out)
            wanted = Wanted.of(chunks, within, pending[~first])
        at = 0
        while at < len(wanted.chunks):
            end = min(at + self._piece(), len(wanted.chunks))
            # Before the lock is taken: the rest need not wait while we wait for a server.
            piece = wanted.part(at, end)
            work = ((self._decode, self._private) if self._ahead is None
                    else self._ahead(piece.chunks[~self._here(piece.chunks)].tolist()))
            self._fill_and_copy(piece, out, *work)
            at = end

    def _is_scattered(self, wanted: Wanted) -> bool:
        return len(wanted.chunks) >= SCATTERED and 4 * len(wanted.places) <= len(wanted.chunks) * self.chunk_rows

    def _pass_by(self, wanted: Wanted, out: Array) -> None:
        """Rows scattered over chunks that nobody asked for before are decoded past the arena. New pages cost more than the
        decoding, and of many of these chunks nothing is ever asked again. What is asked for twice is kept."""
        wanted = wanted.served(self._private(wanted.chunks), out)
        todo, most = wanted.chunks, max(SCRATCH_BYTES // self.slot_bytes, 1)

        def part(low: int, high: int) -> None:
            step = max(min(most, high - low), 1)
            scratch = np.empty((step * self.chunk_rows, *self._rows.shape[1:]), self._rows.dtype)
            for at in range(low, high, step):
                end = min(at + step, high)
                self._decode(todo[at:end], scratch.reshape(-1).view(np.uint8), np.arange(end - at) * self.slot_bytes)
                wanted.part(at, end).copy(scratch, np.arange(end - at) * self.chunk_rows, out)
        spread(part, len(todo), 8)
        self._counters[_DECODED] += len(todo)
        with self._lock.held():
            known = self._slot_of[wanted.chunks]
            self._slot_of[wanted.chunks[known == 0]] = -1       # no slot's chunk: the last one has another stamp

    def _piece(self) -> int:
        room = (self._cache.limit - self._cache.nbytes) // self.slot_bytes + self.used
        return int(max(LEAST, min(max(PIECE, PIECE_BYTES // self.slot_bytes), room, self.slots)))

    def _fill_and_copy(self, wanted: Wanted, out: Array, decode: Decode, private: Private) -> None:
        wanted = wanted.served(private(wanted.chunks), out)
        if len(wanted.chunks):
            with self._lock.held():
                wanted.copy(self._rows, self._fill(wanted.chunks, decode) * self.chunk_rows, out)

    def _fill(self, chunks: Int64s, decode: Decode) -> Int64s:
        """The slot of each of these distinct chunks, decoding those that are missing. The lock is held."""
        if self._counters[_BUSY]:       # a filler was killed: what it had taken is free
            self._counters[_USED] = np.count_nonzero(self._stamps[:int(self._counters[_HIGH])])
        self._counters[_BUSY] = 1
        slots = self._slot_of[chunks].astype(np.int64)
        missing = np.flatnonzero(~self._here(chunks))
        if len(missing):
            here = np.delete(slots, missing)
            slots[missing] = fresh = self._allocate(len(missing), here)
            todo, places = chunks[missing], fresh * self.slot_bytes

            def part(low: int, high: int) -> None:
                decode(todo[low:high], self._bytes, places[low:high])
            spread(part, len(todo), 4)
            # Only now, when the bytes are all there, does anyone hear of them.
            self._stamps[fresh] = ((self._generations[fresh].astype(np.int64) & 0x3FFFFF) << 40) | (todo + 1)
            self._slot_of[todo] = fresh
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
                    release(self._bytes, slot * self.slot_bytes, self.slot_bytes)

    def _grow(self, chunks: int) -> None:
        """Room for higher chunk numbers. A process forked before keeps its own, shorter table, and decodes alone."""
        if chunks > len(self._slot_of):
            with self._lock.held():
                table = shared(4 * max(2 * len(self._slot_of), 2 * chunks)).view(np.int32)
                table[:len(self._slot_of)] = self._slot_of
                self._slot_of = table
