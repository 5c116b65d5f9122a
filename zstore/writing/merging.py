"""Merging small runs of the key index in the background, between commits; the next commit names the result.

Size-tiered: once eight runs of one tier stand in the index they become one. Bounded: no merge makes a run of more than
``MAX_ROWS`` entries, so that a commit and its memory stay small however long the run.
"""

from __future__ import annotations

import math

import numpy as np

from zstore.errors import ZStoreError
from zstore.format.extents import Extents
from zstore.format.layout import run_name
from zstore.format.record import Record, SessionInfo
from zstore.format.run import MAX_EPOCH_SPANS, Entries, RunHeader, concat
from zstore.format.schema import Schema
from zstore.notices import logger
from zstore.storage.base import Storage
from zstore.writing.crew import Crew, Job
from zstore.writing.entries import put_run, read_run

FAN = 8
MAX_ROWS = 2**18
PIECE = 2**15


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
            parts = [read_run(self._storage, run) for run in runs]
            entries = merge_entries([entries for _, entries in parts])
            header = merge_headers([header for header, _ in parts], self._session, len(entries))
            return runs, put_run(self._storage, header, entries)
        except (OSError, ZStoreError) as error:
            logger.info("merging runs of the key index failed, they stay as they are: %s", error)
            return None


def merge_entries(parts: list[Entries]) -> Entries:
    """All entries in one order, made piece by piece along the keys: beside the result, memory is that of one piece."""
    total = sum(map(len, parts))
    out = Entries(np.empty(total, np.uint64), np.empty(total, np.uint32), np.empty(total, np.int32),
                  np.empty(total, np.int64))
    longest = max(parts, key=len)
    pieces = -(-total // PIECE)
    bounds = longest.key[[len(longest) * piece // pieces for piece in range(1, pieces)]]
    cuts = [[0, *np.searchsorted(part.key, bounds).tolist(), len(part)] for part in parts]
    at = 0
    for piece in range(pieces):
        merged = concat([part.take(slice(cut[piece], cut[piece + 1])) for part, cut in zip(parts, cuts, strict=True)]).sorted()
        end = at + len(merged)
        out.key[at:end], out.check[at:end] = merged.key, merged.check
        out.epoch[at:end], out.address[at:end] = merged.epoch, merged.address
        at = end
    return out


def merge_headers(headers: list[RunHeader], session: SessionInfo, rows: int) -> RunHeader:
    """What a run of all these covers."""
    first = headers[0]
    spans: list[tuple[int, int, int]] | None = []
    for header in headers:
        spans = None if spans is None or header.epochs is None else spans + header.epochs
    if spans is not None:
        spans = _joined(sorted(spans, key=lambda span: span[1]))
    extents = Extents(pair for header in headers for pair in header.extents)
    return RunHeader(first.store_id, session.commit_id, session.opened, rows, first.strings, extents, spans)


def _joined(spans: list[tuple[int, int, int]]) -> list[tuple[int, int, int]] | None:
    """Neighbours of one epoch as one span; None above the bound of a header."""
    out: list[tuple[int, int, int]] = []
    for epoch, start, count in spans:
        if out and out[-1][0] == epoch and out[-1][1] + out[-1][2] == start:
            out[-1] = (epoch, out[-1][1], out[-1][2] + count)
        else:
            out.append((epoch, start, count))
    return out if len(out) <= MAX_EPOCH_SPANS else None
