"""A commit: what is pending becomes durable, a record names it, Zarr's documents follow. One at a time."""

from __future__ import annotations

import secrets
import threading
from dataclasses import replace
from typing import Any

from zstore.commits.claims import check_fence
from zstore.commits.log import Log
from zstore.commits.opening import Session, reopen_session
from zstore.commits.projection import Known, project
from zstore.commits.publish import Delta, publish
from zstore.errors import InDoubt, StaleWriter, ZStoreError
from zstore.format.layout import INDEX
from zstore.format.record import Record
from zstore.format.schema import Schema
from zstore.notices import logger, warn
from zstore.writing.counting import Count, Counter
from zstore.writing.crew import Crew
from zstore.writing.entries import Cut
from zstore.writing.merging import Merged, Merger
from zstore.writing.pipeline import Pipeline


class Committer:
    """One session's publishing. ``lock`` is shared by clock commits, ``commit`` and ``state_dict``. Its session is open
    already, so making one does nothing that may fail: ``begin`` and ``rolled_back`` do that, each in its order."""

    def __init__(self, log: Log, session: Session, schema: Schema, crew: Crew) -> None:
        self.log, self.session, self.schema = log, session, schema
        self.lock = threading.RLock()
        self.crew = crew
        self.pipeline = Pipeline(log, session, schema, crew)
        self._counter = Counter(log.storage, schema, session.opening)
        self._merger = Merger(log.storage, schema, session.info)
        self._index = session.opening.index         # of the newest record that this writer looked at
        self._settled = False
        self.pipeline.pending.spilt = self._merge
        self._poison: ZStoreError | None = None
        self.superseded = 0             # keys of earlier sessions that this one wrote again
        self._documents: Known = {}
        self.bring_projection()

    @classmethod
    def begin(cls, log: Log, session: Session, crew: Crew) -> Committer:
        """Of a session that was just opened; it is let go of where something fails, or this process would keep every later
        writer out."""
        try:
            schema = log.schema_of(session.opening)
            _make_folders(log, schema)
            return cls(log, session, schema, crew)
        except BaseException:
            session.lock.release()
            raise

    def rolled_back(self, target: Record) -> Committer:
        """The same writer's next session, with the rows of ``target``. What may fail comes before its record: from then on
        this one is fenced."""
        schema = self.log.schema_of(target)
        _make_folders(self.log, schema)
        try:
            session = reopen_session(self.log, self.session, target)
        except (StaleWriter, InDoubt) as error:
            self.end(error)
            raise
        self.pipeline.stop()
        self._merger.stop()
        return Committer(self.log, session, schema, self.crew)

    @property
    def tag(self) -> str:
        """What temporary files of this session are called by."""
        return f"{self.session.info.opened:020d}"

    def commit(self, *, meta: Any = None, closing: bool = False) -> Record:
        """Make everything that was appended durable and name it in a record. With nothing new, head's record."""
        with self.lock:
            self.check()
            try:
                return self._commit(meta, closing)
            except (StaleWriter, InDoubt) as error:
                self.end(error)
                raise

    def end(self, error: ZStoreError) -> None:
        """This writer is fenced, or in doubt: it writes no more, and says this each time it is asked to."""
        self._poison = error
        self._merger.stop()
        self.pipeline.fail(error)

    def check(self) -> None:
        """Raise what ended this writer."""
        if self._poison is not None:
            raise self._poison

    def _commit(self, meta: Any, closing: bool) -> Record:
        pipeline = self.pipeline
        if closing:
            pipeline.forgive()          # the last chance: what went wrong an hour ago must not cost what works now
        pipeline.check()
        with pipeline.held():
            pipeline.absorb()
            cut, count = self._write(pipeline)
            merged = self._merged(closing) if cut.rows or meta is not None or closing else None
            folders = {*pipeline.dirty, *([INDEX] if cut.runs or merged else [])}
            self.log.storage.sync(sorted(folders))
            pipeline.dirty -= folders
        tail = self._unfilled() if closing and pipeline.pending.rows == cut.rows else None
        if not cut.rows and meta is None and tail is None:
            head = self.log.head()
            check_fence(head, self.session.info, self.log.storage.url)
            if closing and self._behind:
                self.bring_projection()
            return head
        record = self._publish(cut, count, merged, meta, tail)
        with pipeline.held():
            pipeline.pending.drop(cut)
            if pipeline.shard is not None and pipeline.shard.is_wasteful:
                pipeline.leave_shard()
        self.bring_projection()
        self._index = record.index
        self._merge()
        return record

    def _merged(self, closing: bool) -> Merged | None:
        """What to name in place of what. The first commit of a session may be its last, and so it waits for what is soon done:
        else a thousand short sessions would leave a thousand runs."""
        if closing or not self._settled:
            self._merger.settle()
            self._settled = True
        if closing:
            self._merger.stop()
        return self._merger.result()

    def _merge(self) -> None:
        """Have runs merged where they are too many, those too that were written ahead of the next commit."""
        self._merger.consider((*self._index, *self.pipeline.pending.spilled))

    def _unfilled(self) -> int | None:
        """The shard to hand over: this writer's, if it lies above the one that head hands over."""
        shard, parent = self.pipeline.unfilled(), self.log.head().tail
        return shard if shard is not None and (parent is None or shard > parent) else None

    def _write(self, pipeline: Pipeline) -> tuple[Cut, Count]:
        """Write the unfilled shard's objects, beside them the index run of the new rows, and meanwhile count what they
        repeat. The caller holds the pipeline."""
        head = self.log.likely(self.session.info)
        self._index = head.index
        self._merge()

        def cut_and_count() -> tuple[Cut, Count]:
            cut = pipeline.pending.cut()
            return cut, self._counter.count(head, cut)

        done: list[Any] = self.crew.run_all([*pipeline.tail_writes(self.tag), cut_and_count])
        pipeline.tail_is_written()
        pipeline.await_seal()
        cut, count = done[-1]
        return cut, count

    def _publish(self, cut: Cut, count: Count, merged: Merged | None, meta: Any,
                 tail: int | None) -> Record:
        delta = Delta(secrets.token_hex(16), cut.extents, cut.runs, merged, tail, self.pipeline.shards.next, cut.rows,
                      cut.nonfinite, meta)
        earlier = 0

        def make(head: Record) -> Record:
            nonlocal earlier
            now = count if count.version == head.version else self._counter.count(head, cut)
            earlier = now.earlier
            return delta.apply(head, self.session.info, now.duplicates, now.superseded)

        record = publish(self.log, self.session.info, make)
        self.superseded += earlier
        if earlier:
            logger.info("%s: %d of the %d rows of version %d supersede keys of an earlier session", self.log.storage.url,
                        earlier, cut.rows, record.version)
        return record

    def bring_projection(self) -> None:
        """Zarr's documents to head. The rows are committed already: a failure here is a warning, tried again later."""
        self._behind = True
        try:
            project(self.log, self.tag, self._documents)
            self._behind = False
        except (OSError, ZStoreError) as error:
            warn(f"{self.log.storage.url}: the rows are committed, but Zarr's documents could not be brought to head "
                 f"({error}); the next commit, or `zstore verify --repair`, tries again")

    def take_schema(self, schema: Schema) -> None:
        """Go on with a schema that has one field more; nothing is pending and a fresh shard comes next."""
        old, self.schema = self.pipeline, schema
        old.stop()
        self.session = replace(self.session, taken=None)
        self.pipeline = Pipeline(self.log, self.session, schema, self.crew)
        self.pipeline.shards.next = old.shards.next
        self.pipeline.pending.spilt = self._merge


def _make_folders(log: Log, schema: Schema) -> None:
    log.storage.make_folders([f.path for f in schema.fields.values()])
