"""What a store holds already, by key and content: which items of the source still need a vector, and which need only a copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zstore._typing import Array, Int64s
from zstore.embed.columns import Columns, Misfit
from zstore.embed.failing import TWICE, plain_id, sample_of
from zstore.embed.hashes import Table, UInt64s, hash_id, hash_text
from zstore.embed.passages import PARENT
from zstore.embed.types import Failure, Item
from zstore.errors import NotFound
from zstore.view import View

HASH = "text_hash"
_WRAP = 1 << 64


@dataclass(slots=True, eq=False)
class Job:
    """A row to come: its id and kept values as the store has them, and the hash of its text."""

    id: Any
    hash: int
    values: tuple[Any, ...]
    place: str = ""
    changed: bool = False       # the store has this id with another text

    def failed(self, stage: str, reason: str, text: str = "") -> Failure:
        return Failure(self.id, stage, reason, self.place, sample_of(text))


@dataclass
class Sorted:
    """Some items of the source, sorted by what they need."""

    texts: list[tuple[Job, str]] = field(default_factory=list)      # a vector
    copies: list[tuple[Job, str]] = field(default_factory=list)     # that of another row with this text, there or on its way
    early: list[Failure] = field(default_factory=list)              # before another one of these items with the same id
    failures: list[Failure] = field(default_factory=list)           # all others
    met: list[Any] = field(default_factory=list)                    # the store has them as they are
    skipped: int = 0

    @property
    def coming(self) -> list[Any]:
        """The ids that have their vectors, or will."""
        return [*self.met, *(job.id for job, _ in self.texts), *(job.id for job, _ in self.copies)]


class Resume:
    """Decides by id and text, never by position. Memory: 9 bytes a row of the store; the rest, 16 bytes of each row of the
    store and 32 of a new one, is in files (``hashes.Table``).

    Equal 64-bit hashes are taken for equal texts: among ten million texts the chance that any two differ is one in 400,000.
    """

    def __init__(self, store: View | None, epoch: int, key: bytes, columns: Columns) -> None:
        self._store, self._epoch, self._key, self._columns = store, epoch, key, columns
        hashes = np.zeros(0, np.uint64) if store is None else np.asarray(store.field(HASH), np.uint64)
        self._hashes: UInt64s = hashes
        self._met = np.zeros(len(hashes), np.uint8)     # of each row: the source named it by a failure alone (1), by a text (2)
        self.opened = self.rows = len(hashes)       # of the store before this run; with those that landed in it
        self.made = 0                               # rows of this run whose vectors the model made
        self._texts = Table(hashes, np.arange(len(hashes), dtype=np.int64))
        self._ids = Table()                         # of this run's new and changed rows: hash of id -> hash of text
        self._flying: set[int] = set()              # hashes of texts that the model has, or will have in a moment
        self._broken: dict[int, str] = {}           # hashes of texts that it could not do, with the reason
        self.nameless = 0                           # failures that name no id: which rows they mean is unknown
        self._excused = Table()                     # hashes of parents that have a failure, whose passages are not absent

    def sort(self, items: Sequence[Item | Failure]) -> Sorted:
        """Take the next items of the source, in order."""
        out = Sorted()
        jobs: list[tuple[Job, str]] = []
        failures: list[tuple[int, Failure]] = []        # with how many jobs came before
        self._columns.settle([item for item in items if isinstance(item, Item)])
        for item in items:
            if isinstance(item, Failure):
                self._meet_failed(item)
                failures.append((len(jobs), item))
                continue
            try:
                identity = self._columns.id_of(item)
            except Misfit as error:
                self.nameless += 1
                failure = Failure(plain_id(item.id), "check", str(error), item.place, sample_of(item.text))
                failures.append((len(jobs), failure))
                continue
            job = Job(identity, hash_text(item.text, self._key), (), item.place)
            try:
                job.values = self._columns.values_of(item)
            except Misfit as error:
                failure = job.failed("check", str(error), item.text)
                self._meet_failed(failure)
                failures.append((len(jobs), failure))
                continue
            jobs.append((job, item.text))
        last = self._last(jobs) if failures else {}
        for at, failure in failures:
            (out.early if last.get(str(failure.id), -1) >= at else out.failures).append(failure)
        if jobs:
            self._sort(jobs, out)
        return out

    def _last(self, jobs: list[tuple[Job, str]]) -> dict[str, int]:
        """Where the last one of each id stands, and the last passage of each text."""
        names = [str(job.id) for job, _ in jobs]
        last = {name: at for at, name in enumerate(names)}
        if PARENT in self._columns.names:
            last |= {name.rpartition("#")[0]: at for at, name in enumerate(names)}
        return last

    def _sort(self, jobs: list[tuple[Job, str]], out: Sorted) -> None:
        ids = [job.id for job, _ in jobs]
        rows = self._find(ids)
        keys = [hash_id(item) for item in ids]
        refiled = self._refiled([job for job, _ in jobs], rows)
        earlier = self._ids.get(keys)
        known = self._texts.get([job.hash for job, _ in jobs])
        here: dict[int, int] = {}               # of these very items
        for at, (job, text) in enumerate(jobs):
            row, before = int(rows[at]), here.get(keys[at], earlier[at])
            if before is None and row >= 0 and self._met[row] == 2:
                before = _signed(int(self._hashes[row]))
            if before is not None:              # the id came before in this run
                if before == _signed(job.hash):
                    out.skipped += 1
                else:
                    out.failures.append(job.failed("check", TWICE, text))
                continue
            if row >= 0:
                self._met[row] = 2
            if row >= 0 and int(self._hashes[row]) == job.hash:
                if at in refiled:
                    out.copies.append((job, text))
                else:
                    out.skipped += 1
                    out.met.append(job.id)
                continue
            job.changed = row >= 0
            here[keys[at]] = _signed(job.hash)
            self._ids.put(keys[at], _signed(job.hash))
            if known[at] is not None or job.hash in self._flying:
                out.copies.append((job, text))
            else:
                self._flying.add(job.hash)
                out.texts.append((job, text))

    def landed(self, jobs: Sequence[Job]) -> None:
        """These were appended, in this order."""
        for job in jobs:
            self._texts.put(job.hash, self.rows)
            self._flying.discard(job.hash)
            self.rows += 1
        self.made += len(jobs)

    def copied(self, count: int) -> None:
        """So many rows were appended whose texts other rows have."""
        self.rows += count

    def recount(self, hashes: UInt64s) -> None:
        """These are the hashes of all rows, in the order of rows."""
        self.rows = len(hashes)
        self._texts = Table(hashes, np.arange(len(hashes), dtype=np.int64))

    def failed(self, job: Job, reason: str) -> None:
        """The model could not do this one."""
        self._flying.discard(job.hash)
        self._broken[job.hash] = reason

    def sources(self, jobs: Sequence[Job]) -> list[int | str | None]:
        """For each job that waits for a copy: the row to copy, or why there is none, or None: not yet."""
        rows = self._texts.get([job.hash for job in jobs])
        return [row if row is not None else self._broken.get(job.hash) for job, row in zip(jobs, rows, strict=True)]

    def live(self) -> View | None:
        """What the store held under this epoch before the run, one row of each id; None: nothing."""
        try:
            return None if self._store is None else self._store.epoch(self._epoch)
        except NotFound:
            return None

    def absent(self) -> Iterator[View]:
        """Those of them that the source did not name, some at a time."""
        live = self.live()
        if live is None or len(live) == np.count_nonzero(self._met):
            return
        for part in live.batches(65_536):
            lost = np.flatnonzero(self._met[self._find(part.ids)] == 0)
            if PARENT in self._columns.names:
                parents = [hash_id(parent) for parent in part.field(PARENT)[lost].tolist()]
                lost = lost[[found is None for found in self._excused.get(parents)]]
            if len(lost):
                yield part.select(lost)

    def _find(self, ids: Any) -> Int64s:
        if self._store is None or not self.rows or not len(self._hashes):
            return np.full(len(ids), -1, np.int64)
        found: Int64s = self._store.find(ids, epoch=self._epoch)
        return found

    def _refiled(self, jobs: Sequence[Job], rows: Int64s) -> set[int]:
        """Which of these have the store's text and other kept fields."""
        names = self._columns.names
        same = [at for at, job in enumerate(jobs) if rows[at] >= 0 and int(self._hashes[rows[at]]) == job.hash]
        if not names or not same or self._store is None:
            return set()
        there = self._store.select(rows[same])
        wanted = self._columns.arrays([jobs[at].values for at in same])
        differ = np.zeros(len(same), np.bool_)
        for name in names:
            differ |= _differ(there.field(name), wanted[name])
        return {same[at] for at in np.flatnonzero(differ).tolist()}

    def _meet_failed(self, failure: Failure) -> None:
        """A bad text is no missing one: its row, should the store have one, is neither absent nor pruned."""
        try:
            identity = self._columns.id_of(Item(failure.id, ""))
        except Misfit:
            self.nameless += 1
            return
        row = int(self._find([identity])[0])
        if row >= 0:
            self._met[row] = max(self._met[row], 1)
        if PARENT in self._columns.names:
            name = str(identity)
            for parent in {name, name.rpartition("#")[0]}:
                self._excused.put(hash_id(parent), 1)


def _differ(one: Array, other: Array) -> Any:
    differ = one != other
    return differ & ~((one != one) & (other != other)) if one.dtype.kind == "f" else differ


def _signed(value: int) -> int:
    return value - _WRAP if value >= _WRAP >> 1 else value
