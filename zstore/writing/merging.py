"""Merging small runs of the key index in the background, between commits; the next commit names the result.

Size-tiered: once eight runs of one tier stand in the index they become one. Bounded: no merge makes a run of more than
``MAX_ROWS`` entries, so that a commit and its memory stay small however long the run.
"""

from __future__ import annotations

import math

from zstore.errors import ZStoreError
from zstore.format.layout import run_name
from zstore.format.record import Record, SessionInfo
from zstore.format.run import concat
from zstore.format.schema import Schema
from zstore.notices import logger
from zstore.storage.base import Storage
from zstore.writing.crew import Crew, Job
from zstore.writing.entries import read_run, write_run

FAN = 8
MAX_ROWS = 2**19


class Merger:
    """At most one merge is under way."""

    def __init__(self, storage: Storage, schema: Schema, session: SessionInfo, crew: Crew) -> None:
        self._storage, self._schema, self._session, self._crew = storage, schema, session, crew
        self._sizes: dict[str, int] = {}
        self._job: Job[tuple[tuple[str, ...], str] | None] | None = None

    def result(self) -> tuple[tuple[str, ...], str] | None:
        """The runs that were merged and the one that holds them; once."""
        if self._job is None or not self._job.done:
            return None
        job, self._job = self._job, None
        return job.result()

    def consider(self, record: Record) -> None:
        """Begin a merge if this record's index calls for one."""
        if self._job is not None:
            return
        runs = self._choose(record.index)
        if runs:
            self._job = self._crew.submit(lambda: self._merge(runs))

    def _choose(self, index: tuple[str, ...]) -> tuple[str, ...]:
        tiers: dict[int, list[str]] = {}
        for run in index:
            tiers.setdefault(int(math.log(max(self._rows(run), 1), FAN)), []).append(run)
        for _, runs in sorted(tiers.items()):
            if len(runs) >= FAN and sum(map(self._rows, runs[:FAN])) <= MAX_ROWS:
                return tuple(runs[:FAN])
        return ()

    def _rows(self, run: str) -> int:
        if run not in self._sizes:
            try:
                handle = self._storage.open(run_name(run))
                self._sizes[run] = handle.size // (24 if self._schema.ids_are_strings else 20)
                handle.close()
            except OSError:
                self._sizes[run] = MAX_ROWS     # it can't be read: leave it alone
        return self._sizes[run]

    def _merge(self, runs: tuple[str, ...]) -> tuple[tuple[str, ...], str] | None:
        # The index is derived: a merge that fails costs speed, never a commit.
        try:
            entries = concat([read_run(self._storage, run)[1] for run in runs])
            return runs, write_run(self._storage, self._schema, self._session, entries)
        except (OSError, ZStoreError) as error:
            logger.info("merging runs of the key index failed, they stay as they are: %s", error)
            return None
