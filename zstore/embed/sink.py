"""Rows into the store: those that the model made, and copies of rows with the same text."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, cast

import numpy as np

from zstore._typing import Array
from zstore.embed.columns import Columns
from zstore.embed.engine import Batch, Stats, vectors
from zstore.embed.resume import HASH, Job, Resume
from zstore.embed.types import Encoder, Failure
from zstore.reader import Reader
from zstore.writer import Writer

_AT_ONCE = 4096     # copies
Engine = tuple[int, int | None, bool]       # window, budget, exact
Result = tuple[list[Job], Stats] | Failure  # rows that were appended, or a failure whose id is the job


def row_fields(columns: Columns, jobs: Sequence[Job]) -> dict[str, Array]:
    """What the rows of these hold beside ids, epoch and vectors, (n,) each."""
    return {HASH: np.array([job.hash for job in jobs], np.uint64), **columns.arrays([job.values for job in jobs])}


class Sink:
    """One writer, and a reader of what it committed, from which rows are copied."""

    def __init__(self, writer: Writer, epoch: int, columns: Columns, resume: Resume, at_once: int = _AT_ONCE) -> None:
        self._writer, self._epoch, self._columns, self._resume, self._at_once = writer, epoch, columns, resume, at_once
        self._reader: Reader | None = None

    def append(self, jobs: Sequence[Job], vectors: Array) -> None:
        """One row of each, (n, dim)."""
        self._writer.append([job.id for job in jobs], vectors, epoch=self._epoch, **row_fields(self._columns, jobs))
        self._resume.landed(jobs)

    def recount(self) -> None:
        """Other writers of the session appended too, and are done: look where the rows are."""
        self.commit()
        reader = self._head()
        if reader is not None:
            self._resume.recount(np.asarray(reader.field(HASH), np.uint64))

    def commit(self) -> None:
        """Now, rather than when the clock says."""
        self._writer.commit()

    def copy(self, waiting: Sequence[Job]) -> tuple[list[Job], int, list[Failure]]:
        """Append the rows whose text a committed row has. Gives those that must wait on, how many were appended, and those
        whose text the model could not do."""
        sources = self._resume.sources(waiting)
        reader = self._head() if any(isinstance(source, int) for source in sources) else None
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
                raise RuntimeError(f"{self._writer.url}: rows are not where this run put them; nothing wrong is committed, run "
                                   "it again")
            self.append(jobs, view.vectors)
        return left, len(ready), failed

    def close(self) -> None:
        """Let go of the reader; the writer is its owner's."""
        if self._reader is not None:
            self._reader.close()

    def _head(self) -> Reader | None:
        if self._reader is None:
            options: Mapping[str, Any] | None = self._writer.storage_options
            try:
                self._reader = Reader(self._writer.url, storage_options=options)
            except FileNotFoundError:
                return None
        else:
            self._reader.refresh()
        return self._reader


def alone(texts: Iterator[tuple[Job, str]], encoder: Encoder, engine: Engine, sink: Sink) -> Generator[Result]:
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
