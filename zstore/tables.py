"""Entries of the key index that can be searched: all keys at once, or one in a microsecond or two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from zstore._typing import Int64s
from zstore.format.run import Entries, concat

Bools = npt.NDArray[np.bool_]
Epochs = int | npt.NDArray[np.int32] | None
Visible = Callable[[Int64s], Bools]
_PREFIX_BITS = 22


class Table:
    """Sorted entries behind a table of key prefixes, made at the first search.

    ``epochs``: all that may be in it, or None where that is not known.
    """

    def __init__(self, entries: Entries, epochs: frozenset[int] | None) -> None:
        self.entries, self.epochs = entries, epochs
        self._starts: npt.NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.entries)

    def may_hold(self, epoch: Epochs) -> bool:
        if not len(self.entries):
            return False
        return not isinstance(epoch, int) or self.epochs is None or epoch in self.epochs

    def find(self, keys: npt.NDArray[np.uint64], checks: npt.NDArray[np.uint32], epochs: Epochs,
             visible: Visible) -> tuple[Int64s, Int64s]:
        """``(epoch, address)`` of the best visible entry of each key, -1 where there is none; both int64."""
        entries = self.entries
        at = self._last_at_or_below(keys, epochs) - 1
        best_epoch, best_address = np.full(len(keys), -1, np.int64), np.full(len(keys), -1, np.int64)
        asked = None if epochs is None else np.broadcast_to(np.asarray(epochs, np.int32), len(keys))
        rows = np.flatnonzero((at >= 0) & (entries.key[at] == keys))
        at = at[rows]
        while len(rows):
            if asked is not None:
                near = entries.epoch[at] == asked[rows]
                rows, at = rows[near], at[near]
            addresses = entries.address[at]
            good = (entries.check[at] == checks[rows]) & visible(addresses)
            found = rows[good]
            best_epoch[found], best_address[found] = entries.epoch[at[good]], addresses[good]
            # The others step back through their key's group: a row that is not visible must not hide one that is.
            rows, at = rows[~good], at[~good] - 1
            same = (at >= 0) & (entries.key[at] == keys[rows])
            rows, at = rows[same], at[same]
        return best_epoch, best_address

    def find_one(self, key: int, check: int, epoch: int | None, visible: Callable[[int], bool]) -> tuple[int, int]:
        """The same for one key, without arrays."""
        if self._starts is None:
            self._prepare()
        prefix = (key - self._base) >> self._shift
        if prefix < 0 or prefix >= self._prefixes:
            return -1, -1
        keys, epochs = self._key, self._epoch
        low, high = self._bounds[prefix], self._bounds[prefix + 1]
        while low < high:
            middle = (low + high) >> 1
            there = keys[middle]
            if there < key or (there == key and (epoch is None or epochs[middle] <= epoch)):
                low = middle + 1
            else:
                high = middle
        at = low - 1
        while at >= 0 and keys[at] == key and (epoch is None or epochs[at] == epoch):
            address = self._address[at]
            if self._check[at] == check and visible(address):
                return epochs[at], address
            at -= 1
        return -1, -1

    def _last_at_or_below(self, keys: npt.NDArray[np.uint64], epochs: Epochs) -> Int64s:
        """For each key, the index behind the last entry at or below (key, epoch): a bisection of all keys in step."""
        if self._starts is None:
            self._prepare()
        starts = self._starts
        assert starts is not None
        key, epoch = self.entries.key, self.entries.epoch
        prefix = (keys - np.uint64(self._base)) >> np.uint64(self._shift)     # below the base it wraps to the far end
        inside = (prefix < self._prefixes) & (keys >= np.uint64(self._base))
        bucket = np.where(inside, prefix, 0).astype(np.intp)
        low, high = starts[bucket], starts[bucket + 1]
        high = np.where(inside, high, low)
        last = np.int32(len(key) - 1)
        for _ in range(self._steps):
            middle = (low + high) >> 1
            open_ = low < high
            probe = np.minimum(middle, last)
            there = key[probe]
            if epochs is None:
                right = there <= keys
            else:
                right = (there < keys) | ((there == keys) & (epoch[probe] <= epochs))
            right &= open_
            low = np.where(right, middle + 1, low)
            high = np.where(right, high, np.where(open_, middle, high))
        return np.where(inside, low, 0).astype(np.int64)

    def _prepare(self) -> None:
        entries = self.entries
        count = len(entries)
        self._base = int(entries.key[0])
        span = int(entries.key[-1]) - self._base
        self._shift = max(span.bit_length() - min(count.bit_length(), _PREFIX_BITS), 0)
        self._prefixes = (span >> self._shift) + 1
        prefix = ((entries.key - np.uint64(self._base)) >> np.uint64(self._shift)).astype(np.int64)
        sizes = np.bincount(prefix, minlength=self._prefixes)
        starts = np.zeros(self._prefixes + 1, np.int64 if count >= 2**31 else np.int32)
        np.cumsum(sizes, out=starts[1:])
        self._steps = int(sizes.max()).bit_length()
        self._key, self._epoch = entries.key.data, entries.epoch.data
        self._address, self._check = entries.address.data, entries.check.data
        self._bounds = starts.data
        self._starts = starts                       # last: it says that the others are there


def merge_runs(parts: list[Entries]) -> Entries:
    """All entries in one order; one that stands in several parts once."""
    whole = concat(parts).sorted()
    if len(parts) < 2 or not len(whole):
        return whole
    again = (whole.key[1:] == whole.key[:-1]) & (whole.epoch[1:] == whole.epoch[:-1]) & (
        whole.address[1:] == whole.address[:-1])
    return whole.take(np.flatnonzero(~np.concatenate([[False], again]))) if again.any() else whole
