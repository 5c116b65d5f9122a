"""Rows into the store: those that the model made, and copies of rows with the same text."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import cast

import numpy as np

from zstore._typing import Array
from zstore.embed.columns import Columns
from zstore.embed.engine import Batch, Stats, vectors
from zstore.embed.opening import Opening, reader_of
from zstore.embed.resume import HASH, Job, Resume
from zstore.embed.types import Encoder, Failure
from zstore.reader import Reader

_AT_ONCE = 4096     # copies
Engine = tuple[int, int | None, bool]       # window, budget, exact
Result = tuple[list[Job], Stats] | Failure  # rows that were appended, or a failure whose id is the job


def row_fields(columns: Columns, jobs: Sequence[Job]) -> dict[str, Array]:
    """What the rows of these hold beside ids, epoch and vectors, (n,) each."""
    return {HASH: np.array([job.hash for job in jobs], np.uint64), **columns.arrays([job.values for job in jobs])}


class Sink:
    """One writer, which is opened with the first row, and a reader of what it committed, from which rows are copied."""

    def __init__(self, opening: Opening, epoch: int, columns: Columns, resume: Resume, at_once: int = _AT_ONCE) -> None:
        self._opening, self._epoch, self._columns, self._resume, self._at_once = opening, epoch, columns, resume, at_once
        self._reader: Reader | None = None

    @property
    def url(self) -> str:
        return self._opening.url

    def append(self, jobs: Sequence[Job], vectors: Array) -> None:
        """One row of each, (n, dim), whose vectors the model made."""
        self._append(jobs, vectors)
        self._resume.landed(jobs)

    def recount(self) -> None:
        """Other writers of the session appended too, and are done: look where the rows are."""
        self.commit()
        reader = self._head()
        if reader is not None:
            self._resume.recount(np.asarray(reader.field(HASH), np.uint64))

    def commit(self) -> None:
        """Now, rather than when the clock says."""
        if self._opening.is_open:
            self._opening.writer().commit()

    def copy(self, waiting: Sequence[Job]) -> tuple[list[Job], list[Job], list[Failure]]:
        """Append the rows whose text another row has, which is committed first. Gives those that must wait on, those that
        were appended, and those whose text the model could not do."""
        sources = self._resume.sources(waiting)
        last = max((source for source in sources if isinstance(source, int)), default=-1)
        reader = self._head() if last >= 0 else None
        if last >= 0 and (reader is None or last >= len(reader)):
            self.commit()
            reader = self._head()
        rows = 0 if reader is None else len(reader)
        left: list[Job] = []
        ready: list[tuple[Job, int]] = []
        failed: list[Failure] = []
        for job, source in zip(waiting, sources, strict=True):
            if isinstance(source, str):
                failed.append(job.failed("encode", source))
            elif source is None or source >= rows:
                left.append(job)
            else:
                ready.append((job, source))
        for start in range(0, len(ready), self._at_once):
            part = ready[start:start + self._at_once]
            assert reader is not None
            view = reader.select(np.array([row for _, row in part], np.int64))
            jobs = [job for job, _ in part]
            if np.asarray(view.field(HASH), np.uint64).tolist() != [job.hash for job in jobs]:
                raise RuntimeError(f"{self.url}: rows are not where this run put them; nothing wrong is committed, run "
                                   "it again")
            self._append(jobs, view.vectors)
            self._resume.copied(len(jobs))
        return left, [job for job, _ in ready], failed

    def close(self) -> None:
        """Let go of the reader; the writer is its owner's."""
        if self._reader is not None:
            self._reader.close()

    def _append(self, jobs: Sequence[Job], vectors: Array) -> None:
        fields = row_fields(self._columns, jobs)
        self._opening.writer().append([job.id for job in jobs], vectors, epoch=self._epoch, **fields)

    def _head(self) -> Reader | None:
        if self._reader is None:
            self._reader = reader_of(self.url, self._opening.storage_options)
        else:
            self._reader.refresh()
        return self._reader


def alone(texts: Iterator[tuple[Job, str] | None], encoder: Encoder, engine: Engine, sink: Sink) -> Generator[Result]:
    """Embed and append, in this process."""
    window, budget, exact = engine
    made = vectors(texts, encoder, window=window, budget=budget, exact=exact)
    with closing(cast("Generator[Batch | Failure]", made)) as results:
        for result in results:
            if isinstance(result, Failure):
                yield result
            else:
                jobs, found, stats = result
                sink.append(jobs, found)
                yield jobs, stats
