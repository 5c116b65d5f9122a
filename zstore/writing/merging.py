"""Merging runs of the key index in the background, between commits; the next commit names the result.

Size-tiered: once eight runs of one tier stand in the index they become one, so that a store of n rows has about log n runs. One
merge leads to the next, without waiting for a commit. Small ones are made in memory; larger ones piece by piece, on a thread of
their own, so that no shard waits for them. Where an object goes out as a whole, no merge makes a run of more than
``MAX_DISTANT`` entries: memory stays small however long the run.
"""

from __future__ import annotations

import math
import secrets
import threading
import time

import numpy as np

from zstore.errors import ZStoreError
from zstore.format.extents import Extents
from zstore.format.layout import run_name
from zstore.format.record import SessionInfo
from zstore.format.run import MAX_EPOCH_SPANS, Entries, RunHeader, concat
from zstore.format.schema import Schema
from zstore.notices import logger
from zstore.storage.base import Storage
from zstore.writing.crew import Job
from zstore.writing.entries import put_run, read_run
from zstore.writing.streaming import Source, Stopped, write_merged

FAN = 8
MAX_ROWS = 2**18            # more is not waited for
MAX_DISTANT = 2**19         # more would be too much memory where a run is read and written as a whole
PIECE = 2**15
PAUSE_S = 0.0005
LEFT_ALONE = 2**62          # as the size of a run that can't be read or merged

Merged = tuple[tuple[str, ...], tuple[str, ...]]        # these runs are replaced by those


class Merger:
    """One chain of merges at most is under way."""

    def __init__(self, storage: Storage, schema: Schema, session: SessionInfo) -> None:
        self._storage, self._schema, self._session = storage, schema, session
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()
        self._given: tuple[str, ...] = ()       # the index as it was given, or as the last result left it
        self._now: tuple[str, ...] = ()         # with the merges that were made since
        self._job: Job[None] | None = None
        self._stopped = self._long = False

    def result(self) -> Merged | None:
        """The runs that were merged and those that hold them; once."""
        with self._lock:
            if self._job is not None and self._job.done:
                self._job = None
            given, now = self._given, self._now
            self._given = now
        gone = tuple(run for run in given if run not in set(now))
        return (gone, tuple(run for run in now if run not in set(given))) if gone else None

    def consider(self, index: tuple[str, ...]) -> None:
        """Begin to merge if this index calls for it, and nothing is under way."""
        with self._lock:
            if self._stopped or len(index) < FAN or (self._job is not None and not self._job.done):
                return
            # Merges that no commit has asked for yet stay as they are; what came since stands behind them.
            known = set(self._given) if self._given != self._now else set()
            fresh = tuple(run for run in index if run not in known)
            self._given = (*self._given, *fresh) if known else fresh
            self._now = (*self._now, *fresh) if known else fresh
            self._job = Job(self._work)
            try:
                threading.Thread(target=self._job.run, name="zstore-merge", daemon=True).start()
            except RuntimeError:                # the interpreter is exiting
                self._job = None

    def settle(self) -> None:
        """Wait for the merges under way, unless it is one of those that take long."""
        while (job := self._job) is not None and not job.done and not self._long:
            time.sleep(PAUSE_S)

    def stop(self) -> None:
        """Give up what is under way."""
        self._stopped = True

    def _work(self) -> None:
        self._sizes = {run: rows for run, rows in self._sizes.items() if run in set(self._now)}
        while not self._stopped and (runs := self._choose(self._now)):
            merged = self._merge(runs)
            if merged is None:
                self._sizes |= dict.fromkeys(runs, LEFT_ALONE)
                continue
            with self._lock:
                at = self._now.index(runs[0])
                rest = [run for run in self._now if run not in set(runs)]
                self._now = (*rest[:at], merged, *rest[at:])

    def _choose(self, index: tuple[str, ...]) -> tuple[str, ...]:
        tiers: dict[int, list[str]] = {}
        for run in index:
            if self._rows(run) < LEFT_ALONE:
                tiers.setdefault(int(math.log(max(self._rows(run), 1), FAN)), []).append(run)
        for _, runs in sorted(tiers.items()):
            if len(runs) >= FAN and self._may_merge(sum(map(self._rows, runs[:FAN]))):
                return tuple(runs[:FAN])
        return ()

    def _may_merge(self, rows: int) -> bool:
        # Of the members of one session, who all see the same runs, one alone makes the merges that take long.
        return rows <= MAX_ROWS or (self._session.member == 0 and (rows <= MAX_DISTANT or not self._storage.distant))

    def _rows(self, run: str) -> int:
        if run not in self._sizes:
            try:
                handle = self._storage.open(run_name(run))
                self._sizes[run] = handle.size // (24 if self._schema.ids_are_strings else 20)
                handle.close()
            except OSError:
                self._sizes[run] = LEFT_ALONE
        return self._sizes[run]

    def _merge(self, runs: tuple[str, ...]) -> str | None:
        # The index is derived: a merge that fails costs speed, never a commit.
        try:
            self._long = sum(map(self._rows, runs)) > MAX_ROWS
            if self._long and not self._storage.distant:
                return self._stream(runs)
            parts = [read_run(self._storage, run) for run in runs]
            entries = merge_entries([entries for _, entries in parts])
            return put_run(self._storage, merge_headers([header for header, _ in parts], self._session, len(entries)), entries)
        except Stopped:
            return None
        except (OSError, ZStoreError, MemoryError) as error:
            logger.info("merging runs of the key index failed, they stay as they are: %s", str(error))
            return None

    def _stream(self, runs: tuple[str, ...]) -> str | None:
        sources: list[Source] = []
        try:
            for run in runs:
                sources.append(Source(self._storage, run))      # noqa: PERF401
            header = merge_headers([source.header for source in sources], self._session, sum(map(len, sources)))
            name = f"{header.opened:020d}-{secrets.token_hex(16)}"
            return name if write_merged(self._storage, sources, header, name, self._go_on) else None
        finally:
            for source in sources:
                source.close()

    def _go_on(self) -> None:
        if self._stopped:
            raise Stopped("the writer closed")


def largest_distant(entries: int) -> int:
    """How large the runs of a distant store get whose commits write so many entries each."""
    while entries * FAN <= MAX_DISTANT:
        entries *= FAN
    return entries


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
    first, known = headers[0], [header.epochs for header in headers if header.epochs is not None]
    spans = None
    if len(known) == len(headers):
        spans = _joined(np.array([span for epochs in known for span in epochs], np.int64).reshape(-1, 3))
    extents = Extents(pair for header in headers for pair in header.extents)
    return RunHeader(first.store_id, session.commit_id, session.opened, rows, first.strings, extents, spans)


def _joined(spans: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> list[tuple[int, int, int]] | None:
    """Neighbours of one epoch as one span; None above the bound of a header."""
    spans = spans[np.argsort(spans[:, 1], kind="stable")]
    epoch, start, end = spans[:, 0], spans[:, 1], spans[:, 1] + spans[:, 2]
    firsts = np.flatnonzero(np.append(True, (epoch[1:] != epoch[:-1]) | (start[1:] != end[:-1]))[:len(spans)])
    if len(firsts) > MAX_EPOCH_SPANS:
        return None
    ends = end[np.append(firsts[1:], len(spans)) - 1]
    return list(zip(epoch[firsts].tolist(), start[firsts].tolist(), (ends - start[firsts]).tolist(), strict=True))
