"""Publishing: creating record n if absent is the only atomic step of the format."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from zstore.commits.claims import check_fence
from zstore.commits.log import Log
from zstore.errors import Corrupt, InDoubt
from zstore.format.extents import Extents
from zstore.format.layout import COMMITS, commit_name
from zstore.format.record import Record, SessionInfo, parse_record
from zstore.format.schema import Schema
from zstore.storage.base import Storage

_RANDOM = random.SystemRandom()     # not the global one: a training's random numbers stay as they are

IN_DOUBT_S = 5.0


@dataclass(frozen=True)
class Delta:
    """What a member's commit adds to whatever head it is applied to; never a restatement."""

    commit_id: str
    extents: Extents = field(default_factory=Extents)
    runs: tuple[str, ...] = ()
    merged: tuple[tuple[str, ...], tuple[str, ...]] | None = None     # these runs are replaced by those
    tail: int | None = None                               # handed over
    next: int = 0
    new_rows: int = 0
    nonfinite: int = 0
    meta: Any = None
    definition: Schema | None = None

    def apply(self, head: Record, session: SessionInfo, duplicates: int, superseded: int | None) -> Record:
        """The record after ``head``."""
        version = head.version + 1
        extents = head.extents | self.extents
        tail = head.tail
        if self.tail is not None and (tail is None or self.tail > tail):
            tail = self.tail
        return Record(
            head.store_id, version, self.commit_id, head.commit_id, session, time.time(),
            version if self.definition is not None else head.schema, extents, max(head.length, extents.end),
            max(head.next, self.next), tail, self._index(head), head.deletes, self.meta, self.definition, self.new_rows,
            duplicates, self.nonfinite, superseded)

    def _index(self, head: Record) -> tuple[str, ...]:
        if self.merged is None or not set(self.merged[0]) <= {*head.index, *self.runs}:
            return (*head.index, *self.runs)
        gone, made = set(self.merged[0]), self.merged[1]
        return (*(run for run in head.index if run not in gone), *made, *(run for run in self.runs if run not in gone))


def publish(log: Log, session: SessionInfo, make: Callable[[Record], Record]) -> Record:
    """Publish ``make(head)`` as the record after head; after a lost number, after the new head. Durable on return.

    Raises StaleWriter when head is of another session, InDoubt when it can't be known whether the record landed."""
    head = log.likely(session)
    while True:
        check_fence(head, session, log.storage.url)
        record = make(head)
        if create_record(log.storage, record):
            log.saw(record)
            return record
        # A peer was faster. Full jitter keeps many members from marching in step.
        time.sleep(_RANDOM.random() * 0.01)
        head = log.head()


def create_record(storage: Storage, record: Record, *, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Create this number's record; False when another writer's is there. The name is durable on return.

    A create that failed on a settled backend (a local link, memory) and that left no record did not happen, and raises as it
    is. Where that can't be seen either, or the sync of the folder failed, it is in doubt: the same number and commit id again,
    until time runs out."""
    name, data = commit_name(record.version), record.to_bytes()
    parse_record(data, record.version, name)        # a record that no reader takes would be in the way for ever
    deadline = time.monotonic() + IN_DOUBT_S
    landed = tried = False
    while True:
        try:
            if not landed:
                draft = storage.draft([data], f"{record.session.opened:020d}")
                tried = True
                landed = storage.create(draft, name) or _is_mine(storage, record)
                if not landed:
                    return False
            storage.sync([COMMITS])
            return True
        except InDoubt:
            raise                   # a distant storage has tried this very record again until its time ran out
        except OSError as error:
            if storage.distant and not landed:
                raise               # settled: it tried until its time ran out, and would have said InDoubt
            if not landed:
                try:
                    landed = _is_mine(storage, record)
                    unseen = False
                except Corrupt:
                    raise
                except OSError:
                    unseen = True
                if not (landed or (unseen and tried)):
                    if isinstance(error, FileNotFoundError) and storage.exists(name):
                        return False        # gc took the draft of an opener that slept while others wrote
                    raise
            if time.monotonic() > deadline:
                raise InDoubt(f"{storage.url}: version {record.version} was written, or may have been, but the disk did "
                              f"not confirm it ({error}); it is there wholly or not at all. Open the store again to see which"
                              ) from error
            sleep(0.05)


def _is_mine(storage: Storage, record: Record) -> bool:
    # Looked for in that very number: head may have moved on over a record of ours.
    name = commit_name(record.version)
    try:
        return parse_record(storage.read(name), record.version, name).commit_id == record.commit_id
    except FileNotFoundError:
        return False


def opening_of(head: Record, target: Record, session: SessionInfo, *, tail: int | None, commit_id: str,
               definition: Schema | None = None) -> Record:
    """The opening record after ``head`` with the rows of ``target`` (head itself, or what is rolled back to)."""
    version = head.version + 1
    schema = version if definition is not None else target.schema
    return replace(
        target, version=version, commit_id=commit_id, parent=head.commit_id, session=session, time=time.time(),
        schema=schema, length=head.length, next=head.next, tail=tail, deletes=head.deletes, meta=None,
        definition=definition, new_rows=0, duplicates=0, nonfinite=0, extra={})
