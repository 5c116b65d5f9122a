"""Keys to addresses: the immutable runs that a version names, and what no readable run covers.

A lookup finds, in each run, the last entry at or below (key, epoch) among those of its key, steps back over what is not
visible, and keeps the best over all runs. Runs are sorted by hash, so a table of prefixes leaves a handful of entries
to bisect. Many small runs are joined in memory once the lookups have cost about as much as the joining.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Collection
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from zstore._typing import Int64s
from zstore.errors import Corrupt
from zstore.format import layout
from zstore.format.extents import Extents
from zstore.format.run import Entries, epoch_spans
from zstore.format.schema import Schema
from zstore.runs import Heads, Readable, RunFile, read_run, scan
from zstore.storage.base import Storage
from zstore.storage.chunk_cache import ChunkCache
from zstore.storage.ranges import at_once
from zstore.tables import Bools, Epochs, Table, Visible, join_small, merge_runs

__all__ = ["KeyIndex", "RunFile", "count_duplicates", "merge_runs"]

log = logging.getLogger("zstore")
JOINED_ENTRIES = 1 << 23        # as many, joined in memory, are 230 MB
T = TypeVar("T")
ALONE = 8                       # one key by itself costs as much as so many of a bulk


class KeyIndex:
    """The keys of one version. Immutable to the caller; safe among threads and in forked children.

    ``previous`` is the index of another version of the same store, whose loaded runs are used again. ``trusted``
    is a writer's: runs that it checked before are not checked again, and many small ones are not joined in memory;
    those that are checked now are added to it. ``kept`` keeps the runs of a distant store nearer.
    """

    def __init__(self, storage: Storage, schema: Schema, runs: tuple[str, ...], extents: Extents,
                 ids_column: Readable | None, epoch_column: Readable | None, previous: KeyIndex | None = None, *,
                 trusted: set[str] | None = None, kept: ChunkCache | None = None) -> None:
        self.extents, self._names = extents, runs
        self._storage, self._schema, self._ids, self._epochs = storage, schema, ids_column, epoch_column
        self._files: dict[str, RunFile | None] = {} if previous is None else {
            name: previous._files[name] for name in runs if name in previous._files}
        self._heads: Heads = Heads(storage, schema, runs, None if previous is None else previous._heads, kept)
        self._joined: tuple[frozenset[str], Table] | None = None if previous is None else previous._joined
        self._scanned: Entries | None = None
        self._tables: list[Table] | None = None
        self._known_epochs: Int64s | None = None
        self._work, self._late = (0, True) if trusted is None else (-1, False)
        self._trusted, self._kept = set() if trusted is None else trusted, kept
        self._starts, self._ends = extents.starts.tolist(), (extents.starts + extents.counts).tolist()

    def lookup(self, keys: npt.NDArray[np.uint64], checks: npt.NDArray[np.uint32], epoch: Epochs,
               visible: Visible | None = None) -> Int64s:
        """The address of each key, -1 where absent; int64.

        With an epoch (one, or an int32 array, one per key) the highest visible address of exactly that key; with None
        the row of the highest epoch, and of those the highest address. ``visible`` says which addresses count (default: the
        version's extents); the rest are cut before the highest is chosen.
        """
        seen = self._in_extents if visible is None else visible
        return self._sound(lambda: self._best(keys, checks, epoch, seen))

    def _best(self, keys: npt.NDArray[np.uint64], checks: npt.NDArray[np.uint32], epoch: Epochs, seen: Visible) -> Int64s:
        found = [table.find(keys, checks, epoch, seen) for table in self._searched(epoch, len(keys))]
        if not found:
            return np.full(len(keys), -1, np.int64)
        best_epoch, best = found[0]
        for epochs, addresses in found[1:]:
            better = (epochs > best_epoch) | ((epochs == best_epoch) & (addresses > best))
            best_epoch, best = np.where(better, epochs, best_epoch), np.where(better, addresses, best)
        return best

    def lookup_one(self, key: int, check: int, epoch: int | None, visible: Callable[[int], bool] | None = None) -> int:
        """The same for one key, in a few microseconds; -1 where absent."""
        seen = self._holds if visible is None else visible
        best = (-1, -1)
        try:
            for table in self._searched(epoch, ALONE):
                found = table.find_one(key, check, epoch, seen)
                if found > best:
                    best = found
        except Corrupt as error:
            self._let_go(error)
            return self.lookup_one(key, check, epoch, visible)
        return best[1]

    @property
    def names(self) -> tuple[str, ...]:
        """The runs, as the record names them."""
        return self._names

    def tables(self) -> list[tuple[str, Table]]:
        """Every source of rows by name; the rows that no run covers are one without a name."""
        return self._sound(self._checked)

    def may_hold(self, keys: npt.NDArray[np.uint64], epoch: int | None) -> Bools:
        """Which of these keys, in ascending order, may be there at this epoch (None: at any); the others surely are not.

        One pass along each run, without the tables that ``lookup`` makes."""
        maybe = np.zeros(len(keys), bool)
        for _, table in self.tables():
            if len(keys) and table.may_hold(epoch):
                held = table.entries.key
                at = np.minimum(np.searchsorted(held, keys), len(held) - 1)
                maybe |= held[at] == keys
        return maybe

    def contains(self, keys: npt.NDArray[np.uint64], checks: npt.NDArray[np.uint32],
                 epochs: npt.NDArray[np.int32]) -> Bools:
        """Which of these (key, epoch) the version has."""
        return self.lookup(keys, checks, epochs) >= 0

    def entries(self, extents: Extents | None = None) -> Entries:
        """Every row of these extents (default: the version's) once, by (key, epoch, address)."""
        wanted = self.extents if extents is None else extents
        parts = []
        for _, table in self.tables():
            keep = wanted.contains(table.entries.address)
            parts.append(table.entries if keep.all() else table.entries.take(np.flatnonzero(keep)))
        return merge_runs(parts) if parts else _nothing()

    def epoch_addresses(self, epoch: int) -> Extents:
        """The addresses of the version's rows at this epoch."""
        found = Extents()
        for spans, table in self._sound(self._spanned):
            if spans is not None:
                found |= Extents.of_runs(spans[spans[:, 0] == epoch, 1:])
            elif table is not None and table.may_hold(epoch):
                found |= Extents.of_addresses(np.sort(table.entries.address[table.entries.epoch == epoch]))
        return found & self.extents

    def epochs(self) -> Int64s:
        """The distinct epochs of the version's rows, ascending; int64."""
        if self._known_epochs is None:
            found: set[int] = set()
            for spans, table in self._sound(self._spanned):
                if spans is None:
                    assert table is not None
                    live = self._in_extents(table.entries.address)
                    found.update(np.unique(table.entries.epoch[live]).tolist())
                else:
                    rows = self.extents.rank(spans[:, 1] + spans[:, 2]) - self.extents.rank(spans[:, 1])
                    found.update(spans[rows > 0, 0].tolist())
            self._known_epochs = np.array(sorted(found), np.int64)
        return self._known_epochs

    def forget(self, most: int) -> None:
        """Let go of loaded runs, the largest first, until at most ``most`` entries are held open."""
        loaded = [(name, len(file.table)) for name, file in self._files.items() if file is not None]
        total = sum(size for _, size in loaded)
        for name, size in sorted(loaded, key=lambda pair: -pair[1]):
            if total <= most:
                return
            del self._files[name]
            total -= size

    @property
    def known_epochs(self) -> Int64s | None:
        """``epochs()`` where it was asked before, else None; reads nothing."""
        return self._known_epochs

    # Which runs there are.

    def _sound(self, ask: Callable[[], T]) -> T:
        """The answer of the runs that are sound in all that is looked at."""
        while True:
            try:
                return ask()
            except Corrupt as error:
                self._let_go(error)

    def _let_go(self, error: Corrupt) -> None:
        """Do without the run that was found damaged while somebody looked at it; raises what was no such thing."""
        if not (damaged := [name for name in self._names if layout.run_name(name) == error.object]):
            raise error
        if self._files.get(damaged[0]) is not None:       # another thread may have been here
            self._lack(damaged[0], error)
        self._tables = self._scanned = None

    def _lack(self, name: str, error: OSError) -> None:
        # Its text: the error holds frames, and they the mapped run, for as long as somebody keeps log records.
        log.warning("a run of the key index can't be read, its rows' ids are read instead, which is slower: %s", str(error))
        self._files[name] = None

    def _checked(self) -> list[tuple[str, Table]]:
        for _, table in (named := [(name, file.table) for name, file in self._loaded()]):
            table.check()
        return [*named, *(("", table) for table in self._rest())]

    def _readable(self) -> list[RunFile]:
        return [file for _, file in self._loaded()]

    def _loaded(self, without: Collection[str] = ()) -> list[tuple[str, RunFile]]:
        """The readable runs in the record's order; those that are not loaded yet at once, where that means requests."""
        names = [name for name in self._names if name not in without]
        lacking = [name for name in names if name not in self._files]
        if len(lacking) > 1 and self._storage.distant:
            at_once([partial(self._load, name) for name in lacking])
        return [(name, file) for name in names for file in [self._load(name)] if file is not None]

    def _load(self, name: str) -> RunFile | None:
        """A run, read and checked once; None, with one warning, where it can't be read."""
        if name not in self._files:
            try:
                fresh = name not in self._trusted
                self._files[name] = read_run(self._storage, self._schema, name, self._kept, fresh, self._late)
                self._trusted.add(name)
            except OSError as error:
                self._lack(name, error)
        return self._files[name]

    def _rest(self) -> list[Table]:
        """The rows that no readable run covers, as a table of their own: a lost run costs speed, never an answer."""
        if self._scanned is None:
            covered = Extents(pair for file in self._readable() for pair in file.header.extents)
            missing = self.extents - covered
            self._scanned = self._scan(missing) if len(missing) else _nothing()
        return [Table(self._scanned, None)] if len(self._scanned) else []

    def _scan(self, extents: Extents) -> Entries:
        if self._ids is None or self._epochs is None:
            raise Corrupt(layout.INDEX, "runs of the key index are missing, and so are the columns to make them from")
        return scan(self._schema, self._ids, self._epochs, extents)

    def _spanned(self) -> list[tuple[Int64s | None, Table | None]]:
        """The epoch spans of each source of rows; where it has none, its table. Runs whose ends say enough are not read."""
        known = self._heads.spans(self.extents, self._files)
        if known is not None:
            return [(known, None)]
        for file in (files := self._readable()):
            if file.spans is None:
                file.table.check()
        found: list[tuple[Int64s | None, Table | None]] = [(file.spans, file.table) for file in files]
        for table in self._rest():
            order = np.argsort(table.entries.address)
            spans = epoch_spans(table.entries.epoch[order], table.entries.address[order])
            found.append((None if spans is None else np.array(spans, np.int64), table))
        return found

    def _searched(self, epoch: Epochs, asked: int) -> list[Table]:
        """The tables that may hold the answer."""
        tables = self._tables
        if tables is None:
            tables = self._tables = self._arranged()
        if len(tables) > 2 and self._work >= 0:
            self._work += asked * len(tables)
            if self._work > sum(map(len, tables)) // 2:
                tables = self._tables = self._join()
                self._work = -1
        if len(tables) == 1:
            return tables
        return [table for table in tables if table.may_hold(epoch)]

    def _arranged(self) -> list[Table]:
        joined = self._joined
        if joined is not None and joined[0] <= set(self._names):
            others = [file.table for name, file in self._loaded(joined[0])]
            return [joined[1], *others, *self._rest()]
        return [file.table for file in self._readable()] + self._rest()

    def _join(self) -> list[Table]:
        """The small runs as one table in memory, kept for later versions that name them all; large ones as they are."""
        readable = [(name, file.table) for name, file in self._loaded()]
        joined = join_small(readable, JOINED_ENTRIES)
        if joined is None:
            return self._arranged()
        self._joined = joined
        return [joined[1], *(table for name, table in readable if name not in joined[0]), *self._rest()]

    # Which addresses count.

    def _in_extents(self, addresses: Int64s) -> Bools:
        if len(self._starts) == 1:
            inside: Bools = (addresses >= self._starts[0]) & (addresses < self._ends[0])
            return inside
        return self.extents.contains(addresses)

    def _holds(self, address: int) -> bool:
        at = bisect_right(self._starts, address) - 1
        return at >= 0 and address < self._ends[at]


def count_duplicates(index: KeyIndex, entries: Entries) -> int:
    """How many of these entries have a key that the index's version has already."""
    return int(index.contains(entries.key, entries.check, entries.epoch).sum()) if len(entries) else 0


def _nothing() -> Entries:
    return Entries(np.zeros(0, np.uint64), np.zeros(0, np.uint32), np.zeros(0, np.int32), np.zeros(0, np.int64))
