"""``embed``: a source of texts into a store; what is there already stays, what fails is written down."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, Literal

from zstore.embed import provenance
from zstore.embed.columns import agreed
from zstore.embed.engine import WINDOW
from zstore.embed.journal import Journal
from zstore.embed.models import load
from zstore.embed.progress import Callback, Meter, count_of
from zstore.embed.resume import Job, Resume
from zstore.embed.sink import Result, Sink, alone
from zstore.embed.texts import PASSAGE_FIELDS, texts_of
from zstore.embed.types import Encoder, Failure, Item, Report
from zstore.embed.workers import Task, together
from zstore.errors import AlreadyExists, Conflict, StoreNotFound
from zstore.maintenance.delete import hide
from zstore.maintenance.describe import Description, describe
from zstore.notices import warn
from zstore.reader import Reader
from zstore.writer import Writer

OnBad = Literal["quarantine", "skip", "fail"]
_TAKEN = 1024           # items of the source that are looked at together
_WAITING = 16_384       # rows that wait for the vector of an equal text; beyond, the model does them too


def embed(source: Any, to: str | os.PathLike[str], *, model: Any, id: str = "id", text: str = "text", keep: Sequence[str] = (),
          format: str | None = None, epoch: int = 0, prompt: str | None = None, dim: int | None = None,
          dtype: str | None = None, normalize: bool | None = None, passages: int | None = None,
          overlap: int = 0, max_chars: int | None = None, on_bad: OnBad = "quarantine", max_failures: int | None = None,
          prune: bool = False, exact: bool = False, workers: int = 1, window: int = WINDOW,
          budget: int | None = None, commit_s: float = 5.0, limit: int | None = None,
          progress: bool | Callback | None = None, metrics: str | os.PathLike[str] | None = None,
          source_options: Mapping[str, Any] | None = None, storage_options: Mapping[str, Any] | None = None,
          **writer: Any) -> Report:
    """Embed every text of ``source`` into the store at ``to``, which is made or continued, and say what was done.

    An item is skipped where the store holds its id, at this epoch, with this text. New and changed texts are embedded, equal
    ones once; a row whose kept fields changed is written again with its vector. Whatever the order of the source, and however
    often a run was killed, nothing is computed twice but what was not committed: ``commit_s`` seconds at most.

    Parameters
    ----------
    source
        A path, a folder, a pattern or a URL, "-" for stdin, or any iterable of (id, text) or of mappings; see ``sources``.
    model
        A name, a folder, "hash:384", a function from texts to vectors, or an encoder; ``prompt``, ``dim``, ``dtype`` and
        ``normalize`` are its settings.
    keep : names
        Fields of the source to store beside the vectors. Empty for an existing store: those that it keeps.
    passages, overlap : int
        Cut each text into passages of so many characters that overlap by so many; ids "doc#3", fields parent and offset.
    on_bad : {"quarantine", "skip", "fail"}
        What happens to an item that can't be embedded: written to the ledger beside the store, left out, or the run ends.
    max_failures : int
        End the run, committed, when more items than this failed.
    prune : bool
        Hide rows whose ids the source has no more, for good. Else they are counted in ``Report.absent``.
    exact : bool
        Nothing is padded, so that a vector hangs on its text alone.
    workers : int
        Processes, each with the model and one GPU, if there are several; ``model`` is then a name, a folder, or something that
        can be pickled, and the caller's script is guarded by ``if __name__ == "__main__"``.
    window, budget : int
        Texts that are sorted by length together, and padded tokens of a batch (None: what is best for the model, as it says).
    limit : int
        Only the first so many items; nothing is pruned then.
    progress, metrics
        True for a bar on stderr, or a function of a dict of figures; a file to which they are appended as lines of JSON.
    **writer
        ``codec``, ``rows_per_shard``, ``attrs``, ``takeover``, ``only_writer``: see ``Writer``.

    On Control-C what was done is committed, and KeyboardInterrupt goes on its way. Raises ValueError where the store's vectors
    were made in another way, Conflict while another writer lives, and what ``load`` and ``sources`` raise.
    """
    options = {name: value for name, value in locals().items() if name != "writer"}
    report = Run(**options, writer=writer).go()
    if report.interrupted:
        raise KeyboardInterrupt
    return report


class Run:
    """One run; ``go`` does it. The options are those of ``embed``."""

    def __init__(self, source: Any, to: str | os.PathLike[str], *, model: Any, keep: Sequence[str], epoch: int,
                 on_bad: OnBad, max_failures: int | None, prune: bool, exact: bool, workers: int, window: int,
                 budget: int | None, commit_s: float, limit: int | None, progress: bool | Callback | None,
                 metrics: str | os.PathLike[str] | None, storage_options: Mapping[str, Any] | None, writer: Mapping[str, Any],
                 **reading: Any) -> None:
        if not isinstance(workers, int) or workers < 1:
            raise ValueError(f"workers is {workers!r}; a run has 1 process or more")
        if on_bad not in ("quarantine", "skip", "fail"):
            raise ValueError(f"on_bad is {on_bad!r}; it may be 'quarantine', 'skip' or 'fail'")
        if prune and limit is not None:
            raise ValueError("prune needs the whole source, so that limit must be left out")
        keep = (keep,) if isinstance(keep, str) else tuple(keep)
        settings = {name: reading.pop(name) for name in ("prompt", "dim", "dtype", "normalize")}
        self.url, self.report = os.fspath(to), Report()
        self._limit = limit
        self._epoch, self._prune, self._commit_s = epoch, prune, commit_s
        self._engine, self._workers, self._model = (window, budget, exact), workers, (model, settings)
        self._storage_options, self._writer_options = storage_options, dict(writer)
        self._held = _described(self.url, storage_options)
        self._encoder: Encoder = load(model, **settings)
        self._made = provenance.of(self._encoder, _name_of(model))
        self._agreed = provenance.check(self.url, {} if self._held is None else self._held.attrs,
                                        0 if self._held is None else self._held.commit.rows, epoch, self._made)
        made_here = PASSAGE_FIELDS if reading["passages"] else ()
        self._columns = agreed(self.url, keep, made_here, None if self._held is None else self._held.fields)
        self._items = texts_of(source, keep=[name for name in self._columns.names if name not in made_here], **reading)
        self._meter = Meter(self.report, count_of(source) if progress or metrics is not None else None, bar=progress is True,
                            callback=progress if callable(progress) else None, metrics=metrics)
        self._journal = Journal(self.url, storage_options, on_bad, max_failures)
        self._journal.remember(source, model, keep=list(keep), epoch=epoch, exact=exact, **settings,
                               **{name: value for name, value in reading.items() if name != "source_options"})
        self._waiting: list[Job] = []
        self._copied_at = -1

    def go(self) -> Report:
        """Do it. What was embedded is committed whatever happens; a KeyboardInterrupt ends the run in order, and the report
        says so."""
        started = time.perf_counter()
        try:
            with self._open() as writer:
                reader = _reader(self.url, self._storage_options)
                opened = 0 if reader is None else reader.version
                self._resume = Resume(reader, self._epoch, provenance.key(self._made), self._columns)
                self._sink = Sink(writer, self._epoch, self._columns, self._resume)
                self._kept_in_order()
            head = _described(self.url, self._storage_options)
            self.report.commits = 0 if head is None else head.commit.version - opened
            if not self.report.interrupted and self._limit is None:
                self._journal.finished()
                self._settle_absent()
        finally:
            self.report.seconds = time.perf_counter() - started
            self._meter.close()
        return self.report

    def _open(self) -> Writer:
        attrs = self._agreed or {provenance.attribute(self._epoch): {**self._made, provenance.KEEP: list(self._columns.names)}}
        options = {"commit_every_s": self._commit_s, "dim": self._encoder.dim, "dtype": self._encoder.dtype,
                   "storage_options": self._storage_options, **self._writer_options}
        options["attrs"] = {**(options.get("attrs") or {}), **attrs}
        if self._workers > 1:
            options["session"] = secrets.token_hex(16)
        self._shared = {name: value for name, value in options.items() if name != "takeover"}
        return Writer(self.url, **options)

    def _kept_in_order(self) -> None:
        """Work, with the ledger written whatever ends it."""
        refused = False
        try:
            self._work()
        except KeyboardInterrupt:
            self.report.interrupted = True
        except (AlreadyExists, Conflict):       # another writer's store: its ledger is not ours
            refused = True
            raise
        finally:
            self._sink.close()
            if not refused:
                self._journal.flush()

    def _work(self) -> None:
        last = time.perf_counter()
        with closing(self._results()) as results:
            for result in results:
                if isinstance(result, Failure):
                    job: Job = result.id
                    self._resume.failed(job, result.reason)
                    self._fail(job.failed(result.stage, result.reason, result.sample))
                else:
                    jobs, stats = result
                    self._meter.batch(stats.tokens, stats.padded, stats.seconds + stats.waited)
                    self.report.embedded += len(jobs)
                    self._journal.done([job.id for job in jobs])
                if time.perf_counter() - last >= self._commit_s:
                    if self._workers == 1:
                        self._copy()
                    self._journal.flush()
                    last = time.perf_counter()
                self._meter.tick()
        if self._workers > 1:
            self._sink.recount()
        while self._waiting:            # a copy may be of a copy, which has to be committed first
            before = len(self._waiting)
            self._sink.commit()
            self._copy()
            if len(self._waiting) == before:
                raise RuntimeError(f"{self.url}: {before:,} rows wait for the vectors of equal texts, which never came; what "
                                   "is committed is right: run it again")

    def _results(self) -> Generator[Result]:
        """Rows as they are appended, and failures whose id is the job."""
        if self._workers == 1:
            return alone(self._texts(), self._encoder, self._engine, self._sink)
        threads = max((os.cpu_count() or 1) // self._workers, 1)
        task = Task(self.url, *self._model, self._engine, self._epoch, self._columns, self._shared, threads, os.getpid())
        return together(self._workers, task, self._texts(), self._resume)

    def _texts(self) -> Iterator[tuple[Job, str]]:
        """What needs a vector, in the order of the source; all else is settled on the way."""
        items = self._items if self._limit is None else islice(self._items, self._limit)
        while True:
            taken: list[Item | Failure] = []
            try:
                taken.extend(islice(items, _TAKEN))
            except Exception:               # what came before it is worth its vectors
                yield from self._sorted(taken)
                raise
            if not taken:
                return
            yield from self._sorted(taken)

    def _sorted(self, taken: list[Item | Failure]) -> Iterator[tuple[Job, str]]:
        found = self._resume.sort(taken)
        self.report.seen += len(taken)
        self.report.skipped += found.skipped
        self._journal.done(found.met)
        for failure in found.failures:
            self._fail(failure)
        yield from found.texts
        for job, text in found.copies:
            if len(self._waiting) >= _WAITING and self._workers == 1 and self._resume.rows != self._copied_at:
                self._sink.commit()
                self._copy()
                self._copied_at = self._resume.rows     # until another row lands there is nothing more to copy
            if len(self._waiting) < _WAITING:
                self._waiting.append(job)
            else:
                yield job, text
        self._meter.tick()

    def _copy(self) -> None:
        """Rows whose text another row has by now."""
        before = self._waiting
        self._waiting, copied, failures = self._sink.copy(before)
        left = set(self._waiting)
        self.report.copied += copied
        self._journal.done([job.id for job in before if job not in left])
        for failure in failures:
            self._fail(failure)

    def _fail(self, failure: Failure) -> None:
        self.report.failed += self._journal.failed(failure)

    def _settle_absent(self) -> None:
        """Hide what the source has no more, or count it."""
        absent = [identity for part in self._resume.absent() for identity in part]
        if not absent:
            return
        if not self._prune:
            self.report.absent = len(absent)
            return
        if self._resume.nameless:
            self.report.absent = len(absent)
            warn(f"{self.url}: {len(absent):,} rows are not in the source, but {self._resume.nameless:,} of its items could "
                 "not be read so far as to know which rows they are; nothing was hidden: mend them and run it again")
            return
        only = bool(self._writer_options.get("only_writer"))
        self.report.pruned = hide(self.url, absent, self._epoch, self._storage_options, only)[1]


def _described(url: str, storage_options: Mapping[str, Any] | None) -> Description | None:
    try:
        return describe(url, storage_options=storage_options)
    except StoreNotFound:
        return None


def _reader(url: str, storage_options: Mapping[str, Any] | None) -> Reader | None:
    try:
        return Reader(url, storage_options=storage_options)
    except StoreNotFound:
        return None


def _name_of(model: Any) -> str:
    if isinstance(model, (str, os.PathLike)):
        return os.fspath(model)
    return str(getattr(model, "__qualname__", None) or type(model).__name__)


__all__ = ["OnBad", "Run", "embed"]
