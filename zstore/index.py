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
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from zstore._typing import Int64s
from zstore.errors import Corrupt
from zstore.format import keys as key_rules
from zstore.format import layout
from zstore.format.extents import Extents
from zstore.format.keys import StringIds
from zstore.format.run import Entries, concat, epoch_spans
from zstore.format.schema import Schema
from zstore.runs import Heads, RunFile, read_run
from zstore.storage.base import Storage
from zstore.storage.chunk_cache import ChunkCache
from zstore.storage.ranges import at_once
from zstore.tables import Bools, Epochs, Table, Visible, merge_runs

__all__ = ["KeyIndex", "RunFile", "count_duplicates", "merge_runs"]

log = logging.getLogger("zstore")
JOINED_ENTRIES = 1 << 23        # as many, joined in memory, are 230 MB
SCAN_ROWS = 1 << 17
ALONE = 8                       # one key by itself costs as much as so many of a bulk


class Readable(Protocol):
    """What the index asks of a column, where it must read the rows that no run covers."""

    def span(self, start: int, count: int) -> npt.NDArray[Any]: ...

    def string_ids(self, start: int, count: int) -> list[StringIds]: ...


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
        self._work = 0 if trusted is None else -1
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
        best_epoch, best = np.full(len(keys), -1, np.int64), np.full(len(keys), -1, np.int64)
        for table in self._searched(epoch, len(keys)):
            epochs, addresses = table.find(keys, checks, epoch, seen)
            better = (epochs > best_epoch) | ((epochs == best_epoch) & (addresses > best))
            best_epoch, best = np.where(better, epochs, best_epoch), np.where(better, addresses, best)
        return best

    def lookup_one(self, key: int, check: int, epoch: int | None, visible: Callable[[int], bool] | None = None) -> int:
        """The same for one key, in a few microseconds; -1 where absent."""
        seen = self._holds if visible is None else visible
        best = (-1, -1)
        for table in self._searched(epoch, ALONE):
            found = table.find_one(key, check, epoch, seen)
            if found > best:
                best = found
        return best[1]

    @property
    def names(self) -> tuple[str, ...]:
        """The runs, as the record names them."""
        return self._names

    def tables(self) -> list[tuple[str, Table]]:
        """Every source of rows by name; the rows that no run covers are one without a name."""
        named = [(name, file.table) for name, file in self._loaded()]
        return [*named, *(("", table) for table in self._rest())]

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
        for table in [file.table for file in self._readable()] + self._rest():
            keep = wanted.contains(table.entries.address)
            parts.append(table.entries if keep.all() else table.entries.take(np.flatnonzero(keep)))
        return merge_runs(parts) if parts else _nothing()

    def epoch_addresses(self, epoch: int) -> Extents:
        """The addresses of the version's rows at this epoch."""
        found = Extents()
        for spans, table in self._spanned():
            if spans is not None:
                found |= Extents.of_runs(spans[spans[:, 0] == epoch, 1:])
            elif table is not None and table.may_hold(epoch):
                found |= Extents.of_addresses(np.sort(table.entries.address[table.entries.epoch == epoch]))
        return found & self.extents

    def epochs(self) -> Int64s:
        """The distinct epochs of the version's rows, ascending; int64."""
        if self._known_epochs is None:
            found: set[int] = set()
            for spans, table in self._spanned():
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
                self._files[name] = read_run(self._storage, self._schema, name, self._kept, name not in self._trusted)
                self._trusted.add(name)
            except OSError as error:
                # Its text: the error holds frames, and they the mapped run, for as long as somebody keeps log records.
                log.warning("a run of the key index can't be read, so the ids of its rows are read instead, which is "
                            "slower: %s", str(error))
                self._files[name] = None
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
        seed = key_rules.seed_of(self._schema.store_id)
        parts = []
        for first, count in extents:
            for start in range(first, first + count, SCAN_ROWS):
                rows = min(SCAN_ROWS, first + count - start)
                if self._schema.ids_are_strings:
                    hashed = [key_rules.hash_strings(ids, seed) for ids in self._ids.string_ids(start, rows)]
                    keys = np.concatenate([key for key, _ in hashed])
                    checks = np.concatenate([check for _, check in hashed])
                else:
                    keys = key_rules.hash_ints(self._ids.span(start, rows))
                    checks = np.zeros(rows, np.uint32)
                parts.append(Entries(keys, checks, self._epochs.span(start, rows), np.arange(start, start + rows)))
        return concat(parts).sorted()

    def _spanned(self) -> list[tuple[Int64s | None, Table | None]]:
        """The epoch spans of each source of rows; where it has none, its table. Runs whose ends say enough are not read."""
        known = self._heads.spans(self.extents, self._files)
        if known is not None:
            return [(known, None)]
        found: list[tuple[Int64s | None, Table | None]] = [(file.spans, file.table) for file in self._readable()]
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
        small: list[tuple[str, Table]] = []
        total = 0
        readable = [(name, file.table) for name, file in self._loaded()]
        for name, table in sorted(readable, key=lambda pair: len(pair[1])):
            if total + len(table) <= JOINED_ENTRIES:
                small.append((name, table))
                total += len(table)
        if len(small) < 2:
            return self._arranged()
        sets = [table.epochs for _, table in small]
        epochs = frozenset().union(*(s for s in sets if s is not None)) if None not in sets else None
        names = frozenset(name for name, _ in small)
        # In the record's order, which is that of time: then most entries of one key are in order already.
        joined = Table(merge_runs([table.entries for name, table in readable if name in names]), epochs)
        self._joined = (names, joined)
        return [joined, *(table for name, table in readable if name not in names), *self._rest()]

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
