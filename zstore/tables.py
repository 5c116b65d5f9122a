"""Entries of the key index that can be searched: all keys at once, or one in a microsecond or two.

A small table, and one that is asked much, has a table of key prefixes in front, which leaves a handful of entries to
bisect. To make it takes a look at every entry; until that has paid, a large table is searched as it lies: by interpolation,
for hashes are spread evenly. What is looked at is held against the run's checksums, and no more than that.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from zstore._typing import Int64s
from zstore.format.run import Entries, check_order, concat
from zstore.format.run_blocks import Blocks
from zstore.probing import Columns

Bools = npt.NDArray[np.bool_]
U64s = npt.NDArray[np.uint64]
Epochs = int | npt.NDArray[np.int32] | None
Visible = Callable[[Int64s], Bools]
_PREFIX_BITS = 22
_AT_ONCE = 1 << 17          # a table of prefixes for so many entries takes a millisecond
_WORTH = 512                # to make it costs as much as a search without it for one key in so many entries
_GUESSES = 4


class Table:
    """Sorted entries. Safe among threads.

    ``epochs``: all that may be in it, or None where that is not known. ``blocks``: of a run that was not checked yet; then
    whatever looks at it raises ``Corrupt`` where that part of it is damaged.
    """

    def __init__(self, entries: Entries, epochs: frozenset[int] | None, blocks: Blocks | None = None) -> None:
        self.epochs = epochs
        self._columns = Columns(entries, blocks)
        self._known = None if epochs is None else np.array(sorted(epochs), np.int64)
        self._asked = 0
        self._starts: npt.NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self._columns.entries)

    @property
    def entries(self) -> Entries:
        """All of them, checked."""
        self.check()
        return self._columns.entries

    def check(self) -> None:
        """Corrupt unless every entry is as it was written, and in order."""
        blocks = self._columns.blocks
        if blocks is not None:
            blocks.check_all()
            check_order(self._columns.entries, blocks.name)
            self._columns = Columns(self._columns.entries, None)

    def may_hold(self, epoch: Epochs) -> bool:
        if not len(self):
            return False
        return not isinstance(epoch, int) or self.epochs is None or epoch in self.epochs

    def find(self, keys: U64s, checks: npt.NDArray[np.uint32], epochs: Epochs, visible: Visible) -> tuple[Int64s, Int64s]:
        """``(epoch, address)`` of the best visible entry of each key, -1 where there is none; both int64."""
        asked = None if epochs is None else np.asarray(epochs, np.int32)
        if self._prepared(len(keys)):
            at = self._guessed(keys, asked)
            rest = np.flatnonzero(at < 0)
            if len(rest):
                at[rest] = self._last_at_or_below(keys[rest], _of(asked, rest)) - 1
        else:
            order = np.argsort(keys)                # neighbours are searched one after the other
            at = np.empty(len(keys), np.int64)
            at[order] = self._columns.last_at_or_below(keys[order], _of(asked, order)) - 1
        columns = self._columns
        near = (at >= 0) & (columns.read("key", at) == keys)
        found = columns.read("epoch", at)
        if asked is not None:
            near &= found == asked
        addresses = columns.read("address", at)
        good = near & (columns.read("check", at) == checks)
        good &= visible(addresses)
        if not good.all():
            found, addresses = np.where(good, found, -1), np.where(good, addresses, -1)
            rows = np.flatnonzero(near & ~good)
            if len(rows):
                self._step_back(rows, at[rows], (keys, checks, asked), visible, found, addresses)
        return found.astype(np.int64), addresses

    def _step_back(self, rows: Int64s, at: Int64s, wanted: tuple[U64s, npt.NDArray[np.uint32], Any], visible: Visible,
                   found: npt.NDArray[Any], best: Int64s) -> None:
        """Back through each key's group: a row that is not visible must not hide one that is."""
        (keys, checks, asked), columns = wanted, self._columns
        while len(rows):
            at = at - 1
            near = (at >= 0) & (columns.read("key", at) == keys[rows])
            epochs = columns.read("epoch", at)
            if asked is not None:
                near &= epochs == _of(asked, rows)
            rows, at, epochs = rows[near], at[near], epochs[near]
            addresses = columns.read("address", at)
            good = (columns.read("check", at) == checks[rows]) & visible(addresses)
            found[rows[good]], best[rows[good]] = epochs[good], addresses[good]
            rows, at = rows[~good], at[~good]

    def find_one(self, key: int, check: int, epoch: int | None, visible: Callable[[int], bool]) -> tuple[int, int]:
        """The same for one key, without arrays."""
        if self._starts is None and not self._prepared(1):
            columns = self._columns
            at = columns.behind(key, epoch) - 1
            keys, epochs = columns.key, columns.epoch
        else:
            columns = self._columns
            prefix = (key - self._base) >> self._shift
            if prefix < 0 or prefix >= self._prefixes:
                return -1, -1
            keys, epochs = columns.key, columns.epoch
            low, high = self._bounds[prefix], self._bounds[prefix + 1]
            at = bisect_right(keys, key, low, high) - 1
            if epoch is not None and at >= low and epochs[at] != epoch and keys[at] == key:
                at = bisect_right(epochs, epoch, bisect_left(keys, key, low, at), at) - 1
        while at >= 0 and keys[at] == key and (epoch is None or epochs[at] == epoch):
            address = columns.address[at]
            if columns.check[at] == check and visible(address):
                return epochs[at], address
            at -= 1
        return -1, -1

    # The table of prefixes.

    def _prepared(self, asked: int) -> bool:
        """Whether the table of prefixes is there; it is made once that pays."""
        if self._starts is None:
            self._asked += asked
            if len(self) > _AT_ONCE and self._asked * _WORTH < len(self):
                return False
            self._prepare()
        return True

    def _guessed(self, keys: U64s, epochs: npt.NDArray[np.int32] | None) -> Int64s:
        """For each key the index of its last entry at its epoch, where that is found at the first look; else -1.

        In most places of the prefix table there is one id, or two, with an entry for every epoch."""
        starts, entries = self._starts, self._columns.entries
        assert starts is not None
        last = np.int64(len(entries) - 1)
        bucket = np.minimum(self._prefix(keys), np.uint64(self._prefixes - 1)).view(np.int64)
        if epochs is None:
            at = starts.take(bucket + 1).astype(np.int64) - 1
            return np.where(entries.key.take(at, mode="clip") == keys, at, -1)
        if self._known is None or not len(self._known) or not self._distinct:
            return np.full(len(keys), -1, np.int64)
        at = starts.take(bucket) + np.searchsorted(self._known, epochs)
        out = np.where(self._is(at, keys, epochs), np.minimum(at, last), -1)
        for step in range(1, _GUESSES):
            rest = np.flatnonzero(out < 0)
            if not len(rest):
                break
            further = at[rest] + step * len(self._known)
            out[rest] = np.where(self._is(further, keys[rest], _of(epochs, rest)), np.minimum(further, last), -1)
        return out

    def _is(self, at: Int64s, keys: U64s, epochs: npt.NDArray[np.int32]) -> Bools:
        entries = self._columns.entries
        same: Bools = entries.key.take(at, mode="clip") == keys
        same &= entries.epoch.take(at, mode="clip") == epochs
        return same

    def _prefix(self, keys: U64s) -> U64s:
        return (keys - np.uint64(self._base)) >> np.uint64(self._shift)     # below the base it wraps to the far end

    def _last_at_or_below(self, keys: U64s, epochs: npt.NDArray[np.int32] | None) -> Int64s:
        """For each key, the index behind the last entry at or below (key, epoch): a bisection of all keys in step."""
        starts, entries = self._starts, self._columns.entries
        assert starts is not None
        prefix = self._prefix(keys)
        inside = (prefix < self._prefixes) & (keys >= np.uint64(self._base))
        bucket = np.where(inside, prefix, 0).astype(np.intp)
        low, high = starts[bucket], starts[bucket + 1]
        high = np.where(inside, high, low)
        last = np.int32(len(entries) - 1)
        for _ in range(self._steps):
            middle = (low + high) >> 1
            open_ = low < high
            probe = np.minimum(middle, last)
            there = entries.key[probe]
            if epochs is None:
                right = there <= keys
            else:
                right = (there < keys) | ((there == keys) & (entries.epoch[probe] <= epochs))
            right &= open_
            low = np.where(right, middle + 1, low)
            high = np.where(right, high, np.where(open_, middle, high))
        return np.where(inside, low, 0).astype(np.int64)

    def _prepare(self) -> None:
        entries = self.entries
        count, key = len(entries), entries.key
        self._base = int(key[0])
        span = int(key[-1]) - self._base
        self._shift = max(span.bit_length() - min(count.bit_length(), _PREFIX_BITS), 0)
        self._prefixes = (span >> self._shift) + 1
        sizes = np.bincount(self._prefix(key).view(np.int64), minlength=self._prefixes)
        starts = np.zeros(self._prefixes + 1, np.int64 if count >= 2**31 else np.int32)
        np.cumsum(sizes, out=starts[1:])
        self._steps = int(sizes.max()).bit_length()
        self._distinct = not ((key[1:] == key[:-1]) & (entries.epoch[1:] == entries.epoch[:-1])).any()
        self._bounds = starts.data
        self._starts = starts                       # last: it says that the others are there


def _of(epochs: npt.NDArray[np.int32] | None, rows: Int64s) -> Any:
    return epochs if epochs is None or epochs.ndim == 0 else epochs[rows]


def merge_runs(parts: list[Entries]) -> Entries:
    """All entries in one order; one that stands in several parts once."""
    whole = concat(parts).sorted()
    if len(parts) < 2 or not len(whole):
        return whole
    again = (whole.key[1:] == whole.key[:-1]) & (whole.epoch[1:] == whole.epoch[:-1]) & (
        whole.address[1:] == whole.address[:-1])
    return whole.take(np.flatnonzero(~np.concatenate([[False], again]))) if again.any() else whole


def join_small(named: list[tuple[str, Table]], most: int) -> tuple[frozenset[str], Table] | None:
    """The smallest of these tables, of ``most`` entries in all, as one in memory, and which they are; None below two."""
    chosen, total = set(), 0
    for name, table in sorted(named, key=lambda pair: len(pair[1])):
        if total + len(table) <= most:
            chosen.add(name)
            total += len(table)
    if len(chosen) < 2:
        return None
    # In the order given, which is that of time: then most entries of one key are in order already.
    tables = [table for name, table in named if name in chosen]
    sets = [table.epochs for table in tables]
    epochs = frozenset().union(*(known for known in sets if known is not None)) if None not in sets else None
    return frozenset(chosen), Table(merge_runs([table.entries for table in tables]), epochs)
