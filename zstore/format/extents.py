"""Extents: runs of addresses, sorted and merged; a version's rows are its extents in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np

from zstore._typing import Int64s

Pair = tuple[int, int]
MAX_ADDRESS = 2**62      # a sum of two addresses, or of all counts, still fits in int64


class Extents:
    """An immutable sorted set of addresses, held as runs ``[start, count]``.

    Row ``r`` is the r-th address. ``starts``, ``counts`` and ``offsets`` (the row number of each run's first
    address, one longer than ``starts``) are int64 arrays of one entry per run.
    """

    __slots__ = ("counts", "offsets", "starts")
    starts: Int64s
    counts: Int64s
    offsets: Int64s

    def __init__(self, pairs: Iterable[Iterable[int]] = ()) -> None:
        runs = np.array([*pairs], np.int64).reshape(-1, 2)
        self._hold(*_merged(runs[:, 0], runs[:, 1]))

    def _hold(self, starts: Int64s, counts: Int64s) -> Extents:
        self.starts, self.counts = starts, counts
        self.offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
        return self

    @classmethod
    def _of(cls, starts: Int64s, counts: Int64s) -> Extents:
        """Runs that are sorted, merged and not empty already."""
        return cls.__new__(cls)._hold(starts, counts)

    @classmethod
    def run(cls, start: int, count: int) -> Extents:
        """One run; none where ``count`` is 0."""
        some = slice(0, 1 if count > 0 else 0)
        return cls._of(np.array([start], np.int64)[some], np.array([count], np.int64)[some])

    @classmethod
    def of_runs(cls, runs: Int64s) -> Extents:
        """Those of an array (n, 2) of ``start, count``, in any order."""
        return cls._of(*_merged(runs[:, 0], runs[:, 1]))

    @classmethod
    def read(cls, pairs: Any, end: int = MAX_ADDRESS) -> Extents:
        """Those of a stranger's JSON. ValueError or TypeError unless all are ``[start, count]`` within ``[0, end)``,
        ascending and merged: who reads them without us takes them as they stand."""
        if not isinstance(pairs, list):
            raise ValueError("extents")
        flat = [*chain.from_iterable(pairs)]
        if not {*map(len, pairs)} <= {2} or not {*map(type, flat)} <= {int}:
            raise ValueError("extents")
        try:
            runs = np.array(flat, np.int64).reshape(-1, 2)
        except OverflowError:
            raise ValueError("extents") from None
        starts, counts = runs[:, 0].copy(), runs[:, 1].copy()
        bad = (starts < 0) | (counts < 1) | (counts > end - np.clip(starts, 0, end))
        bad[1:] |= starts[1:] - counts[:-1] <= starts[:-1]
        if bad.any():
            raise ValueError(f"the extent {runs[bad.argmax()].tolist()}")
        return cls._of(starts, counts)

    @classmethod
    def of_addresses(cls, addresses: Int64s) -> Extents:
        """The runs of ascending distinct addresses, found without a Python loop over rows."""
        if not len(addresses):
            return cls()
        breaks = np.flatnonzero(np.diff(addresses) != 1) + 1
        firsts = np.concatenate([np.zeros(1, np.int64), breaks])
        return cls._of(np.array(addresses[firsts], np.int64), np.diff(firsts, append=len(addresses)))

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def __iter__(self) -> Iterator[Pair]:
        return zip(self.starts.tolist(), self.counts.tolist(), strict=True)

    @property
    def pairs(self) -> list[Pair]:
        """The runs. Not ``list(extents)``: that asks for the length first, which is that of the rows, and makes room."""
        return [*iter(self)]

    def listed(self) -> list[list[int]]:
        """The runs as JSON has them."""
        found: list[list[int]] = np.column_stack([self.starts, self.counts]).tolist()
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Extents) and np.array_equal(self.starts, other.starts) and np.array_equal(
            self.counts, other.counts)

    def __hash__(self) -> int:
        return hash((self.starts.tobytes(), self.counts.tobytes()))

    def __repr__(self) -> str:
        return f"Extents({[list(pair) for pair in self]})"

    @property
    def end(self) -> int:
        """The highest address + 1; 0 when there is none."""
        return int(self.starts[-1] + self.counts[-1]) if len(self.starts) else 0

    def one_run(self) -> Pair | None:
        """``(start, count)`` where the rows have no hole between them; ``(0, 0)`` for no rows."""
        if len(self.starts) == 0:
            return (0, 0)
        return (int(self.starts[0]), int(self.counts[0])) if len(self.starts) == 1 else None

    def addresses(self, rows: Int64s | None = None) -> Int64s:
        """The addresses of these rows (which must lie in ``[0, len)``), or of all; int64, a new array."""
        if rows is None:
            shift = np.repeat(self.starts - self.offsets[:-1], self.counts)
            return np.arange(len(self), dtype=np.int64) + shift
        if len(self.starts) == 1:
            return np.asarray(rows + self.starts[0])
        run = np.searchsorted(self.offsets, rows, side="right") - 1
        return np.asarray(rows - self.offsets[run] + self.starts[run])

    def rows(self, addresses: Int64s) -> Int64s:
        """The row number of each address, -1 where it is not in the set; int64."""
        if not len(self.starts):
            return np.full(len(addresses), -1, np.int64)
        run = np.searchsorted(self.starts, addresses, side="right") - 1
        inside = run >= 0
        run = np.maximum(run, 0)
        within = addresses - self.starts[run]
        inside &= within < self.counts[run]
        return np.where(inside, within + self.offsets[run], -1)

    def contains(self, addresses: Int64s) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        return self.rows(addresses) >= 0

    def rank(self, addresses: Int64s) -> Int64s:
        """How many of the set's addresses lie below each of these; int64."""
        if not len(self.starts):
            return np.zeros(len(addresses), np.int64)
        run = np.searchsorted(self.starts, addresses, side="right") - 1
        within = np.minimum(addresses - self.starts[run], self.counts[run])
        return np.where(run < 0, 0, self.offsets[np.maximum(run, 0)] + within)

    def slice(self, start: int, stop: int) -> Extents:
        """The rows ``[start, stop)`` as extents."""
        start, stop = max(start, 0), min(stop, len(self))
        if start >= stop:
            return Extents()
        first = int(np.searchsorted(self.offsets, start, "right")) - 1
        last = int(np.searchsorted(self.offsets, stop, "left"))
        starts, ends = self.starts[first:last].copy(), self.starts[first:last] + self.counts[first:last]
        starts[0] += start - self.offsets[first]
        ends[-1] -= self.offsets[last] - stop
        return Extents._of(starts, ends - starts)

    def __or__(self, other: Extents) -> Extents:
        if not len(self.starts) or not len(other.starts):
            return self if len(self.starts) else other
        return Extents._of(*_merged(np.concatenate([self.starts, other.starts]), np.concatenate([self.counts, other.counts])))

    def __and__(self, other: Extents) -> Extents:
        few, many = (self, other) if len(self.starts) <= len(other.starts) else (other, self)
        return Extents._of(*_common(few.starts, few.starts + few.counts, many.starts, many.starts + many.counts))

    def __sub__(self, other: Extents) -> Extents:
        if not len(self.starts) or not len(other.starts):
            return self
        # What lies between the other's runs, cut to ours.
        ends = other.starts + other.counts
        gaps = np.append(min(self.starts[0], other.starts[0]), ends), np.append(other.starts, max(self.end, other.end))
        return Extents._of(*_common(self.starts, self.starts + self.counts, *gaps))


def _merged(starts: Int64s, counts: Int64s) -> tuple[Int64s, Int64s]:
    """Any runs as sorted ones that neither touch nor overlap, without the empty."""
    if (counts <= 0).any():
        starts, counts = starts[counts > 0], counts[counts > 0]
    order = np.argsort(starts, kind="stable")
    starts = starts[order]
    ends = np.maximum.accumulate(starts + counts[order])
    first = np.ones(len(starts), bool)
    first[1:] = starts[1:] > ends[:-1]
    firsts = np.flatnonzero(first)
    found = starts[firsts]
    return found, ends[np.append(firsts[1:], len(starts)) - 1] - found if len(firsts) else found


def _common(starts: Int64s, ends: Int64s, others: Int64s, their_ends: Int64s) -> tuple[Int64s, Int64s]:
    """Where two sorted sets of runs overlap; each has no run that touches the next, or empty ones only."""
    low, high = np.searchsorted(their_ends, starts, "right"), np.searchsorted(others, ends, "left")
    counts = np.maximum(high - low, 0)
    mine = np.repeat(np.arange(len(starts)), counts)
    theirs = np.arange(len(mine)) + np.repeat(low - (np.cumsum(counts) - counts), counts)
    found = np.maximum(starts[mine], others[theirs])
    lengths = np.minimum(ends[mine], their_ends[theirs]) - found
    keep = lengths > 0
    return found[keep], lengths[keep]
