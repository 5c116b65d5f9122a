"""How many of a commit's rows repeat a key, asked of the key index before the record is made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zstore._typing import Int64s
from zstore.cache import Cache
from zstore.errors import ZStoreError
from zstore.format.extents import Extents
from zstore.format.record import Record
from zstore.format.run import Entries, RunHeader
from zstore.format.schema import EPOCH, IDS, Schema
from zstore.index import KeyIndex
from zstore.mapping import Column
from zstore.notices import logger
from zstore.runs import read_head
from zstore.storage.base import Storage
from zstore.writing.entries import Cut, read_run

HELD_ENTRIES = 2**19
SEEN_SLOTS = 2**20


@dataclass(frozen=True)
class Count:
    """Against the version ``version``. ``duplicates``: rows whose key it has. ``earlier``: those of them that an earlier
    session wrote.
    ``superseded``: rows of the new version whose key a higher address holds; None where head did not count them."""

    version: int
    duplicates: int = 0
    earlier: int = 0
    superseded: int | None = 0


class Counter:
    """Counts against the index; of its runs a bounded number of entries stays open between commits."""

    def __init__(self, storage: Storage, schema: Schema, opening: Record) -> None:
        self._storage, self._schema = storage, schema
        self._earlier = opening.extents
        self._head: KeyIndex | None = None
        self._headers: dict[str, RunHeader] = {}
        self._checked: set[str] = set()
        self._seen = Seen()
        cache = Cache(2**22)
        self._ids = Column(storage, schema, schema.fields[IDS], cache)
        self._epochs = Column(storage, schema, schema.fields[EPOCH], cache)

    def count(self, head: Record, cut: Cut) -> Count:
        """The numbers of this cut, were it published after ``head``. They are told, not relied on: where they can't be had
        the commit goes on without them."""
        if not cut.rows:
            return Count(head.version, superseded=head.superseded)
        try:
            return self._count(head, cut)
        except (OSError, ZStoreError) as error:
            logger.warning("repeated keys of a commit are not counted: %s", str(error))
            return Count(head.version, superseded=None)

    def _count(self, head: Record, cut: Cut) -> Count:
        duplicates = earlier = repeats = 0
        named = {*head.index, *cut.runs}            # others were merged: a long run must not keep them all
        self._headers = {run: header for run, header in self._headers.items() if run in named}
        self._checked &= named
        for number, run in enumerate(cut.runs):
            _, entries = read_run(self._storage, run)
            epochs = _distinct(entries.epoch)
            self._head = index = self._relevant(head.index, head.extents, epochs, self._head)
            self._seen.learn(index, epochs)
            found = _lookup(index, entries, epochs, self._seen)
            duplicates += int((found >= 0).sum())
            earlier += int(self._earlier.contains(found[found >= 0]).sum())
            if number:      # an entry may also repeat one of a run of this very commit
                own = self._relevant(cut.runs[:number], self._covered(cut.runs[:number]), epochs, None)
                found = np.maximum(found, _lookup(own, entries, epochs, None))
            repeats += _repeats(entries, found >= 0)
            index.forget(HELD_ENTRIES)
        superseded = None if head.superseded is None else head.superseded + repeats
        return Count(head.version, duplicates, earlier, superseded)

    def _relevant(self, runs: tuple[str, ...], extents: Extents, epochs: frozenset[int],
                  previous: KeyIndex | None) -> KeyIndex:
        """An index of the runs that may hold these epochs, over the addresses that the others do not cover."""
        wanted, others = [], []
        for run in runs:
            header = self._header(run)
            if header is None or header.epochs is None or any(span[0] in epochs for span in header.epochs):
                wanted.append(run)
            else:
                others += header.extents.pairs
        rest = extents - Extents(others)
        self._ids.cover(rest)
        self._epochs.cover(rest)
        return KeyIndex(self._storage, self._schema, tuple(wanted), rest, self._ids, self._epochs, previous,
                        trusted=self._checked)

    def _covered(self, runs: tuple[str, ...]) -> Extents:
        """What these runs cover, and no address more: the shards of a commit under way are not there to be read."""
        headers = [self._header(run) for run in runs]
        return Extents(pair for header in headers if header is not None for pair in header.extents)

    def _header(self, run: str) -> RunHeader | None:
        """A run's header, read and checked once; None where it can't be: the index then reads the rows themselves."""
        if run not in self._headers:
            head = read_head(self._storage, self._schema, run)
            try:
                self._headers[run] = read_run(self._storage, run)[0] if head is None else head.header
            except OSError:
                return None
        return self._headers[run]


def _distinct(epochs: npt.NDArray[np.int32]) -> frozenset[int]:
    # Nearly always it is one. numpy's own `unique` first imports numpy.ma, with the interpreter lock held for 15 ms.
    if epochs.min() == epochs.max():
        return frozenset([int(epochs[0])])
    ordered = np.sort(epochs)
    return frozenset(ordered[np.flatnonzero(np.diff(ordered, prepend=-1))].tolist())


class Seen:
    """One bit per hashed key of the runs that hold the epochs of late: most keys of a commit are new, and this tells so
    without a search in every run. A key that is there is always seen; one that is not is seen at times."""

    def __init__(self) -> None:
        self._epochs: frozenset[int] = frozenset()
        self._names: set[str] = set()
        self._bits = np.zeros(SEEN_SLOTS, bool)

    def learn(self, index: KeyIndex, epochs: frozenset[int]) -> None:
        """Take in what the index has at these epochs."""
        if not epochs <= self._epochs:
            self._epochs, self._names = epochs, set()
            self._bits[:] = False
        if self._names.issuperset(index.names):
            return
        for name, table in index.tables():
            if (not name or name not in self._names) and any(table.may_hold(epoch) for epoch in self._epochs):
                self._bits[_slots(table.entries.key)] = True
                self._names.add(name)

    def may_hold(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        return self._bits[_slots(keys)]


def _slots(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    # Multiplied first: integer ids are keys as they are, and crowd at one end.
    return np.asarray((keys * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - SEEN_SLOTS.bit_length() + 1))


def _lookup(index: KeyIndex, entries: Entries, epochs: frozenset[int], seen: Seen | None) -> Int64s:
    """The address that the index has for each entry's key, else -1; the entries are sorted by key."""
    rows = np.arange(len(entries)) if seen is None else np.flatnonzero(seen.may_hold(entries.key))
    if len(rows):
        rows = rows[index.may_hold(entries.key[rows], next(iter(epochs)) if len(epochs) == 1 else None)]
    found = np.full(len(entries), -1, np.int64)
    if len(rows):
        some = entries.take(rows)
        found[rows] = index.lookup(some.key, some.check, some.epoch)
    return found


def _repeats(entries: Entries, held: npt.NDArray[np.bool_]) -> int:
    """Rows that are not the first of their key: every row whose key is held already, and of the others all but one. The
    entries are sorted, so that equal keys are neighbours."""
    same = ((entries.key[1:] == entries.key[:-1]) & (entries.epoch[1:] == entries.epoch[:-1])
            & (entries.check[1:] == entries.check[:-1]) & ~held[1:])
    return int(held.sum()) + int(same.sum())
