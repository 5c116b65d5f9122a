"""A run's columns, of which each block is checked when it is first looked at, and searches that look at few places."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from zstore._typing import Int64s
from zstore.format.run import MAGIC, Entries
from zstore.format.run_blocks import SHIFT, Blocks

U64s = npt.NDArray[np.uint64]
_COLUMNS = {"key": (0, 3), "address": (8, 3), "epoch": (16, 2), "check": (20, 2)}      # bytes before it; of an entry, log2


class Columns:
    """Entries, and one at a time as plain ints: ``key[i]``, ``epoch[i]``, ``address[i]``, ``check[i]``."""

    def __init__(self, entries: Entries, blocks: Blocks | None) -> None:
        self.entries, self.blocks = entries, blocks
        self.key, self.epoch = self._one("key"), self._one("epoch")
        self.address, self.check = self._one("address"), self._one("check")
        self._keys, self._ends = entries.key.data, (0, 0)
        self._near = 4 * isqrt(len(entries)) + 8        # of n even draws none is so far from where it should be

    def _one(self, name: str) -> Any:
        values: npt.NDArray[Any] = getattr(self.entries, name)
        place = self._place(name)
        return values.data if self.blocks is None or place is None else _Checked(values.data, self.blocks, *place)

    def _place(self, name: str) -> tuple[int, int] | None:
        """Where the column begins in the run; None for the checks of integer ids, zeros that no run holds."""
        before, width = _COLUMNS[name]
        place = len(MAGIC) + before * len(self.entries)
        return None if self.blocks is None or place >= self.blocks.nbytes else (place, width)

    def read(self, name: str, at: Int64s) -> npt.NDArray[Any]:
        """The column's values at these indices; of one that lies outside, the nearest's."""
        values: npt.NDArray[Any] = getattr(self.entries, name)
        self._touch(name, at)
        return values.take(at, mode="clip")

    def behind(self, key: int, epoch: int | None) -> int:
        """The index behind the last entry of this key at or below the epoch; where there is none, one that has no such entry
        before it. Keys that are spread evenly, as hashes are, lie near where they should; others cost a bisection."""
        keys, count = self._keys, len(self._keys)
        if not self._ends[1]:
            self._ends = self.key[0], self.key[count - 1]
        first, last = self._ends
        if not first <= key <= last:
            return 0
        guess = (key - first) * count // (last - first + 1)
        low, high = max(guess - self._near, 0), min(guess + self._near, count)
        at = bisect_right(keys, key, low, high)
        if (at == low and low) or (at == high and high < count):
            at = bisect_right(keys, key)
        if self.blocks is not None:
            # What the bisection came by is not checked; the two entries that say it is right are.
            self.blocks.need(at * 8, at * 8 + 8)
        if epoch is None or not at or keys[at - 1] != key or self.epoch[at - 1] == epoch:
            return at
        start = bisect_left(keys, key, 0, at)
        if self.blocks is not None:
            self.blocks.need(start * 8, start * 8 + 8)
        return bisect_right(self.epoch, epoch, start, at)

    def last_at_or_below(self, keys: U64s, epochs: npt.NDArray[np.int32] | None) -> Int64s:
        """For each key, the index behind the last entry at or below (key, epoch); where there is none of the key, any index
        that has none before it."""
        high = self._between(keys, "right")
        if epochs is None:
            return high
        low = self._between(keys, "left")
        while (open_ := low < high).any():
            middle = (low + high) >> 1
            right = (self.read("epoch", middle) <= epochs) & open_
            low, high = np.where(right, middle + 1, low), np.where(right | ~open_, high, middle)
        return low

    def _between(self, keys: U64s, side: Any) -> Int64s:
        """Where each key would stand. What the search came by is not checked; that its answer is right is, by the two
        entries beside it."""
        held = self.entries.key
        at = np.searchsorted(held, keys, side).astype(np.int64, copy=False)
        if self.blocks is not None:
            below, above = self.read("key", at - 1), self.read("key", at)
            if side == "right":
                right = ((below <= keys) | (at == 0)) & ((above > keys) | (at == len(held)))
            else:
                right = ((below < keys) | (at == 0)) & ((above >= keys) | (at == len(held)))
            if not right.all():
                self.blocks.check_all()         # led astray by an entry that is damaged
        return at

    def _touch(self, name: str, at: Int64s) -> None:
        place = self._place(name)
        if self.blocks is not None and place is not None:
            self.blocks.touch(place[0] + (np.clip(at, 0, len(self.entries) - 1) << place[1]))


class _Checked:
    """A column whose blocks are checked on the way."""

    __slots__ = ("_blocks", "_known", "_place", "_values", "_width")

    def __init__(self, values: memoryview, blocks: Blocks, place: int, width: int) -> None:
        self._values, self._blocks, self._known, self._place, self._width = values, blocks, blocks.known, place, width

    def __getitem__(self, at: int) -> int:
        number = (self._place + (at << self._width)) >> SHIFT
        if not self._known[number]:
            self._blocks.check(number)
        return self._values[at]
