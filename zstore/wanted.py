"""Rows that someone asked for, in the order of the chunks that hold them."""

from __future__ import annotations

import numpy as np

from zstore._typing import Array, Int64s


class Wanted:
    """Of chunk ``chunks[i]`` (ascending, each once) the next ``counts[i]`` of the rows ``within`` go to ``places`` of a
    result."""

    __slots__ = ("chunks", "counts", "places", "within")

    def __init__(self, chunks: Int64s, counts: Int64s, places: Int64s, within: Int64s) -> None:
        self.chunks, self.counts, self.places, self.within = chunks, counts, places, within

    @classmethod
    def of(cls, chunks: Int64s, within: Int64s, places: Int64s) -> Wanted:
        """Row ``within[p]`` of chunk ``chunks[p]``, for each of these places ``p``, in the order of their chunks."""
        sorted_chunks = chunks[places]
        firsts = np.flatnonzero(np.diff(sorted_chunks, prepend=-1))
        return cls(sorted_chunks[firsts], np.diff(firsts, append=len(places)), places, within[places])

    def part(self, low: int, high: int) -> Wanted:
        """What is wanted of the chunks ``[low, high)``."""
        first = int(self.counts[:low].sum())
        rows = slice(first, first + int(self.counts[low:high].sum()))
        return Wanted(self.chunks[low:high], self.counts[low:high], self.places[rows], self.within[rows])

    def copy(self, source: Array, starts: Int64s, out: Array) -> None:
        """Copy all from ``source``, in which chunk ``i`` begins at the row ``starts[i]``."""
        out[self.places] = np.take(source, np.repeat(starts, self.counts) + self.within, axis=0)

    def served(self, own: dict[int, Array], out: Array) -> Wanted:
        """What remains once the rows of these chunks are copied."""
        if not own:
            return self
        stay = np.ones(len(self.chunks), bool)
        ends = np.cumsum(self.counts).tolist()
        for at, chunk in enumerate(self.chunks.tolist()):
            if chunk in own:
                rows = slice(ends[at] - int(self.counts[at]), ends[at])
                out[self.places[rows]] = own[chunk][self.within[rows]]
                stay[at] = False
        kept = np.repeat(stay, self.counts)
        return Wanted(self.chunks[stay], self.counts[stay], self.places[kept], self.within[kept])
