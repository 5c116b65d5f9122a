"""Extents: runs of addresses, sorted and merged; a version's rows are its extents in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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

    def __init__(self, pairs: Iterable[Iterable[int]] = ()) -> None:
        merged: list[list[int]] = []
        for start, count in sorted((int(s), int(c)) for s, c in pairs):
            if count <= 0:
                continue
            if merged and start <= merged[-1][0] + merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], start + count - merged[-1][0])
            else:
                merged.append([start, count])
        self.starts: Int64s = np.array([s for s, _ in merged], np.int64)
        self.counts: Int64s = np.array([c for _, c in merged], np.int64)
        self.offsets: Int64s = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts, dtype=np.int64)])

    @classmethod
    def read(cls, pairs: Any, end: int = MAX_ADDRESS) -> Extents:
        """Those of a stranger's JSON. ValueError or TypeError unless all are ``[start, count]`` within ``[0, end)``,
        ascending and merged: who reads them without us takes them as they stand."""
        if not isinstance(pairs, list):
            raise ValueError("extents")
        free = 0
        for start, count in pairs:
            if type(start) is not int or type(count) is not int or start < free or count < 1 or start + count > end:
                raise ValueError(f"the extent [{start!r:.40}, {count!r:.40}]")
            free = start + count + 1
        return cls(pairs)

    @classmethod
    def of_addresses(cls, addresses: Int64s) -> Extents:
        """The runs of ascending distinct addresses, found without a Python loop over rows."""
        if not len(addresses):
            return cls()
        breaks = np.flatnonzero(np.diff(addresses) != 1) + 1
        firsts = np.concatenate([[0], breaks])
        lengths = np.diff(np.concatenate([firsts, [len(addresses)]]))
        return cls(zip(addresses[firsts].tolist(), lengths.tolist(), strict=True))

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def __iter__(self) -> Iterator[Pair]:
        return zip(self.starts.tolist(), self.counts.tolist(), strict=True)

    @property
    def pairs(self) -> list[Pair]:
        """The runs. Not ``list(extents)``: that asks for the length first, which is that of the rows, and makes room."""
        return [*iter(self)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Extents) and self.pairs == other.pairs

    def __hash__(self) -> int:
        return hash(tuple(self.pairs))

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

    def slice(self, start: int, stop: int) -> Extents:
        """The rows ``[start, stop)`` as extents."""
        out = []
        for (first, count), offset in zip(self, self.offsets[:-1].tolist(), strict=True):
            low, high = max(start - offset, 0), min(stop - offset, count)
            if low < high:
                out.append((first + low, high - low))
        return Extents(out)

    def __or__(self, other: Extents) -> Extents:
        return Extents(self.pairs + other.pairs)

    def __and__(self, other: Extents) -> Extents:
        out, mine, theirs = [], self.pairs, other.pairs
        i = j = 0
        while i < len(mine) and j < len(theirs):
            low = max(mine[i][0], theirs[j][0])
            high = min(mine[i][0] + mine[i][1], theirs[j][0] + theirs[j][1])
            if low < high:
                out.append((low, high - low))
            if mine[i][0] + mine[i][1] <= theirs[j][0] + theirs[j][1]:
                i += 1
            else:
                j += 1
        return Extents(out)

    def __sub__(self, other: Extents) -> Extents:
        out = []
        theirs = other.pairs
        j = 0
        for start, count in self:
            low, end = start, start + count
            while j < len(theirs) and theirs[j][0] + theirs[j][1] <= low:
                j += 1
            k = j
            while k < len(theirs) and theirs[k][0] < end:
                if theirs[k][0] > low:
                    out.append((low, theirs[k][0] - low))
                low = max(low, theirs[k][0] + theirs[k][1])
                k += 1
            if low < end:
                out.append((low, end - low))
        return Extents(out)
