"""How many of a commit's rows repeat a key, asked of the key index before the record is made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zstore._typing import Int64s
from zstore.cache import Cache
from zstore.format.extents import Extents
from zstore.format.record import Record
from zstore.format.run import Entries
from zstore.format.schema import EPOCH, IDS, Schema
from zstore.index import KeyIndex
from zstore.mapping import Column
from zstore.storage.base import Storage
from zstore.writing.entries import Cut, read_run

HELD_ENTRIES = 2**17
FEW_EPOCHS = 4


@dataclass(frozen=True)
class Count:
    """Against the version ``version``. ``duplicates``: rows whose key it has. ``earlier``: those of them that an earlier session wrote.
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
        cache = Cache(2**22)
        self._ids = Column(storage, schema, schema.fields[IDS], cache)
        self._epochs = Column(storage, schema, schema.fields[EPOCH], cache)

    def count(self, head: Record, cut: Cut) -> Count:
        """The numbers of this cut, were it published after ``head``."""
        if not cut.rows:
            return Count(head.version, superseded=head.superseded)
        duplicates = earlier = repeats = 0
        index = self._head = self._index(head.index, head.extents, self._head)
        for number, run in enumerate(cut.runs):
            _, entries = read_run(self._storage, run)
            found = _lookup(index, entries)
            duplicates += int((found >= 0).sum())
            earlier += int(self._earlier.contains(found[found >= 0]).sum())
            if number:      # an entry may also repeat one of a run of this very commit
                own = self._index(cut.runs[:number], cut.extents, None)
                found = np.maximum(found, _lookup(own, entries))
            repeats += _repeats(entries, found >= 0)
        index.forget(HELD_ENTRIES)
        superseded = None if head.superseded is None else head.superseded + repeats
        return Count(head.version, duplicates, earlier, superseded)

    def _index(self, runs: tuple[str, ...], extents: Extents, previous: KeyIndex | None) -> KeyIndex:
        self._ids.cover(extents)
        self._epochs.cover(extents)
        return KeyIndex(self._storage, self._schema, runs, extents, self._ids, self._epochs, previous, join=False)


def _lookup(index: KeyIndex, entries: Entries) -> Int64s:
    """The address that the index has for each entry's key, else -1; the entries are sorted by key.

    Epoch by epoch where they are few: runs that do not have the epoch are then not even opened. Most keys are new, so
    one merge of sorted keys per run first leaves out what is surely absent."""
    found = np.full(len(entries), -1, np.int64)
    epochs = np.unique(entries.epoch)
    asked: list[int | None] = [None] if len(epochs) > FEW_EPOCHS else epochs.tolist()
    for epoch in asked:
        rows = np.arange(len(entries)) if len(asked) == 1 else np.flatnonzero(entries.epoch == epoch)
        rows = rows[index.may_hold(entries.key[rows], epoch)]
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
