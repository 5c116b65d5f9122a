"""Rows whose text another row has: they get that row's vector, and the model never sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zstore.embed.resume import Job, Resume
from zstore.embed.sink import Sink
from zstore.embed.types import Failure
from zstore.embed.waiting import Waiting

_READY = 4096           # rows that are copied together
_WAITING = 16_384       # rows that wait in memory for texts which the model has; more wait in a file


class Copies:
    """Where a row stands that another process appended is known when all have ended. So ``shared`` copies from the rows that
    were there before the run, and leaves the others to ``rest``."""

    def __init__(self, sink: Sink, resume: Resume, shared: bool) -> None:
        self._sink, self._resume, self._shared = sink, resume, shared
        self._ready: list[Job] = []
        self._waiting = Waiting(_WAITING)
        self._made = -1
        self._done: list[Job] = []
        self._failed: list[Failure] = []

    def add(self, jobs: Sequence[Job]) -> None:
        """These wait from now on, unless they can be copied."""
        later: list[Job] = []
        for job, row in zip(jobs, self._resume.sources(jobs), strict=True):
            known = isinstance(row, int) and (row < self._resume.opened or not self._shared)
            (self._ready if known else later).append(job)
        self._waiting.add(later)
        if len(self._ready) >= _READY:
            self._copy_ready()
        if len(self._waiting.first) >= _WAITING:
            self._copy_waiting()

    def copy(self) -> None:
        """All that can be."""
        self._copy_ready()
        self._copy_waiting()

    def rest(self) -> Iterator[None]:
        """The model has done all that it will: copy what is left, some rows at a time. RuntimeError where some can't be."""
        if self._shared and self._waiting:
            self._sink.recount()
        self._shared, self._made = False, self._resume.made
        self._copy_ready()
        yield
        while before := len(self._waiting):
            self._waiting.keep(self._copied(self._waiting.first))
            yield
            if len(self._waiting) == before:
                raise RuntimeError(f"{self._sink.url}: {before:,} rows wait for the vectors of equal texts, which never came; "
                                   "what is committed is right: run it again")

    def taken(self) -> tuple[list[Job], list[Failure]]:
        """What was copied since this was last asked, and what could not be, as the model could not do its text."""
        done, self._done, failed, self._failed = self._done, [], self._failed, []
        return done, failed

    def _copy_ready(self) -> None:
        if self._ready:
            left = self._copied(self._ready)
            self._ready = []
            self._waiting.add(left)     # none: what is known is committed before it is copied

    def _copy_waiting(self) -> None:
        if self._shared or self._made == self._resume.made:     # no text came from the model since
            return
        self._made = self._resume.made
        while self._waiting.first:
            before = len(self._waiting)
            self._waiting.keep(self._copied(self._waiting.first))
            if len(self._waiting) == before:
                return

    def _copied(self, jobs: list[Job]) -> list[Job]:
        left, done, failed = self._sink.copy(jobs)
        self._done += done
        self._failed += failed
        return left
