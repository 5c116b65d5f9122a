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
from zstore.embed.check import named
from zstore.embed.columns import agreed
from zstore.embed.copies import Copies
from zstore.embed.engine import WINDOW
from zstore.embed.gpus import check_workers
from zstore.embed.journal import Journal
from zstore.embed.models import load
from zstore.embed.opening import Opening, check_writer, described
from zstore.embed.options import for_writer
from zstore.embed.portions import Portions
from zstore.embed.progress import Callback, Meter, check_metrics, count_of
from zstore.embed.pruning import Parents, Prune, check_prune, settle
from zstore.embed.resume import Job, Resume
from zstore.embed.sink import Result, Sink, alone
from zstore.embed.texts import PASSAGE_FIELDS, begun, texts_of
from zstore.embed.types import Encoder, Failure, Item, Report
from zstore.embed.workers import Task, together
from zstore.errors import AlreadyExists, Conflict
from zstore.maintenance.delete import hide
from zstore.notices import warn

OnBad = Literal["quarantine", "skip", "fail"]
_TAKEN = 1024           # items of the source that are looked at together
_TAKEN_S = 0.5          # of a slow source, those that came by then
_FEW = 64               # a source that gave fewer in that time is not waited for
_FIRST_S = 5.0          # the first ones settle the types of ids and kept fields


def embed(source: Any, to: str | os.PathLike[str], *, model: Any, id: str = "id", text: str = "text", keep: Sequence[str] = (),
          format: str | None = None, epoch: int = 0, prompt: str | None = None, dim: int | None = None,
          dtype: str | None = None, normalize: bool | None = None, device: str | None = None, name: str | None = None,
          passages: int | None = None, overlap: int = 0, max_chars: int | None = None, on_bad: OnBad = "quarantine",
          max_failures: int | None = None, prune: Prune = False, exact: bool = False, workers: int = 1, window: int = WINDOW,
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
        ``normalize`` are its settings, ``device`` where it works ("cuda:1"), ``name`` a function's. A function is called once
        with two short texts, by which the store knows it again.
    id, keep : names
        The column of the ids, and fields to store beside the vectors. Empty for an existing store: those that it keeps.
        "year:int64", "id:string" say the type of a new store's (int64, float64, bool, string); see ``columns``.
    passages, overlap : int
        Cut each text into passages of so many characters that overlap by so many; ids "doc#3", fields parent and offset.
    on_bad : {"quarantine", "skip", "fail"}
        What happens to an item that can't be embedded: written to the ledger beside the store, left out, or the run ends.
    max_failures : int
        End the run, committed, when more items than this failed.
    prune : bool or "all"
        Hide rows whose ids the source has no more, for good; more than half of the epoch's only with "all", and none where the
        source holds no items (ZStoreError). Else they are counted in ``Report.absent``. What is left of a text that has fewer
        passages than before is hidden always.
    exact : bool
        Nothing is padded, so that a vector hangs on its text alone.
    workers : int
        Processes, each with the model and one GPU, if there are several (``device`` then names none); ``model`` is a name, a
        folder, or something that can be pickled, and the caller's script is guarded by ``if __name__ == "__main__"``.
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
                 on_bad: OnBad, max_failures: int | None, prune: Prune, exact: bool, workers: int, window: int,
                 budget: int | None, commit_s: float, limit: int | None, progress: bool | Callback | None,
                 metrics: str | os.PathLike[str] | None, storage_options: Mapping[str, Any] | None, writer: Mapping[str, Any],
                 **reading: Any) -> None:
        check_workers(workers, reading["device"])
        if on_bad not in ("quarantine", "skip", "fail"):
            raise ValueError(f"on_bad is {on_bad!r}; it may be 'quarantine', 'skip' or 'fail'")
        check_prune(prune, limit)
        keep = (keep,) if isinstance(keep, str) else tuple(keep)
        settings = {name: reading.pop(name) for name in ("prompt", "dim", "dtype", "normalize", "device")}
        settings["name"] = reading.pop("name", None)
        self.url, self.report = os.fspath(to), Report()
        self._limit = limit
        self._epoch, self._prune, self._commit_s = epoch, prune, commit_s
        self._engine, self._workers, self._model = (window, budget, exact), workers, (model, settings)
        self._storage_options, self._writer_options = storage_options, for_writer(writer)
        self._held = described(self.url, storage_options)
        check_writer(self.url, self._held, self._writer_options)
        made_here = PASSAGE_FIELDS if reading["passages"] else {}
        self._columns = agreed(self.url, keep, made_here, None if self._held is None else self._held.fields, reading["id"])
        self._cut = provenance.cut(self.url, self._held, epoch, reading["passages"], reading["overlap"])
        self._parents = Parents() if made_here else None
        self._items = begun(texts_of(source, to=self.url, keep=[name for name in self._columns.names if name not in made_here],
                                     **reading))
        check_metrics(metrics)
        self._encoder: Encoder = load(model, **settings)        # last, for it may take seconds
        made = provenance.of(self._encoder, provenance.name_of(model, settings["name"]), exact)
        self._made, self._agreed = provenance.agreed(self.url, self._held, epoch, made, self._encoder)
        self._meter = Meter(self.report, count_of(source) if progress or metrics is not None else None, bar=progress is True,
                            callback=progress if callable(progress) else None, metrics=metrics)
        self._journal = Journal(self.url, storage_options, on_bad, max_failures, epoch, cut=bool(reading["passages"]))
        self._journal.remember(source, model, keep=list(keep), epoch=epoch, exact=exact, **settings,
                               **{name: value for name, value in reading.items() if name != "source_options"})
        self._last = time.perf_counter()        # that what was copied was committed

    def go(self) -> Report:
        """Do it. What was embedded is committed whatever happens; a KeyboardInterrupt ends the run in order, and the report
        says so."""
        started = time.perf_counter()
        try:
            with closing(self._opened()) as self._opening:
                self._resume = Resume(self._opening.reader, self._epoch, provenance.key(self._made), self._columns)
                self._sink = Sink(self._opening, self._epoch, self._columns, self._resume)
                self._copies = Copies(self._sink, self._resume, shared=self._workers > 1)
                self._journal.begin(ours=self._held is not None)
                self._kept_in_order()
            self.report.commits = self._opening.commits()
            ended = not self.report.interrupted and (self._limit is None or self.report.seen < self._limit)
            if ended or self._workers == 1:     # a worker that was stopped may have told rows that it could not commit
                self._journal.settle(ended=ended)
            if ended and self._limit is None:
                self._journal.finished()
            if not self.report.interrupted:
                self._settle_absent()
        finally:
            self.report.seconds = time.perf_counter() - started
            self._meter.close()
        return self.report

    def _opened(self) -> Opening:
        made = {**self._made, provenance.KEEP: list(self._columns.names), **self._cut}
        attrs = self._agreed or {provenance.attribute(self._epoch): made}
        options = {"commit_every_s": self._commit_s, "dim": self._encoder.dim, "dtype": self._encoder.dtype,
                   **self._writer_options}
        options["attrs"] = {**(options.get("attrs") or {}), **attrs}
        if self._workers > 1:
            options["session"] = secrets.token_hex(16)
        self._shared = {**options, "storage_options": self._storage_options}
        self._shared.pop("takeover", None)
        return Opening(self.url, self._storage_options, options, self._writer_options.get("attrs"),
                       lambda there: provenance.agreed(self.url, there, self._epoch, self._made, self._encoder))

    def _kept_in_order(self) -> None:
        """Work, with the ledger written whatever ends it."""
        refused = False
        try:
            self._work()
        except KeyboardInterrupt:
            self.report.interrupted = True
        except (AlreadyExists, Conflict) as error:      # another writer's store: its ledger is not ours
            refused = True
            raise self._opening.told(error) from None
        finally:
            self._sink.close()
            if not refused and self._opening.refused is None:
                self._journal.flush()
                if said := self._columns.warning():
                    warn(f"{self.url}: {said}")

    def _work(self) -> None:
        with closing(self._results()) as results:
            for result in results:
                if isinstance(result, Failure):
                    job: Job = result.id
                    self._resume.failed(job, result.reason)
                    self._fail(job.failed(result.stage, result.reason, result.sample))
                else:
                    jobs, stats = result
                    self._meter.batch(stats)
                    self.report.embedded += len(jobs)
                    self._landed(jobs)
                self._by_time()
                self._meter.tick()
        for _ in self._copies.rest():
            self._take_copied()
            self._by_time()
            self._meter.tick()

    def _results(self) -> Generator[Result]:
        """Rows as they are appended, and failures whose id is the job."""
        if self._workers == 1:
            return alone(self._texts(), self._encoder, self._engine, self._sink)
        threads = max((os.cpu_count() or 1) // self._workers, 1)
        task = Task(self.url, *self._model, self._engine, self._epoch, self._columns,
                    {**self._shared, "mode": self._opening.mode}, threads, os.getpid())
        return together(self._workers, task, self._begun(), self._resume)

    def _begun(self) -> Iterator[tuple[Job, str] | None]:
        """``_texts``, from the first one on, when the session that the processes join is open."""
        begun = False
        for text in self._texts():
            if text is not None and not begun:
                self._opening.writer()
                begun = True
            if begun:
                yield text

    def _texts(self) -> Iterator[tuple[Job, str] | None]:
        """What needs a vector, in the order of the source; all else is settled on the way. None: more may take a while."""
        items = self._items if self._limit is None else islice(self._items, self._limit)
        source: Portions[Item | Failure] = Portions(items, _TAKEN)
        while not source.ended:
            if taken := source.next(_TAKEN_S if self.report.seen else _FIRST_S):
                yield from self._sorted(taken)
            if len(taken) < _FEW:
                yield None
        if source.error is not None:
            raise source.error

    def _sorted(self, taken: list[Item | Failure]) -> Iterator[tuple[Job, str]]:
        found = self._resume.sort(taken)
        self.report.seen += len(taken)
        self.report.skipped += found.skipped
        self._fail(*found.early)
        self._journal.coming(found.coming, found.met)
        self._fail(*found.failures)
        if self._parents is not None:
            self._parents.take(taken)
        yield from found.texts
        self._copies.add([job for job, _ in found.copies])
        self._take_copied()
        self._by_time()
        self._meter.tick()

    def _by_time(self) -> None:
        """What the model's rows are to the Writer's clock, copies and failures are to this."""
        if time.perf_counter() - self._last >= self._commit_s:
            self._copies.copy()
            if self._take_copied():
                self._sink.commit()
            self._journal.flush()
            self._last = time.perf_counter()

    def _take_copied(self) -> bool:
        """Count what was copied; whether anything was."""
        jobs, failures = self._copies.taken()
        self.report.copied += len(jobs)
        self._landed(jobs)
        self._fail(*failures)
        return bool(jobs)

    def _landed(self, jobs: Sequence[Job]) -> None:
        self.report.changed += sum(job.changed for job in jobs)
        self._journal.done([job.id for job in jobs])

    def _fail(self, *failures: Failure) -> None:
        for failure in failures:
            self.report.first_failure = self.report.first_failure or f"{named(failure)}: {failure.reason}"
            written = self._journal.failed(failure)
            self.report.failed += written
            self.report.left_out += 1 - written

    def _settle_absent(self) -> None:
        """Hide what the source has no more, or count it."""
        def away(ids: list[Any]) -> None:
            hide(self.url, ids, self._epoch, self._storage_options, bool(self._writer_options.get("only_writer")))

        if self._parents is not None and self._limit is not None and self.report.seen >= self._limit:
            self._parents.forget_last()
        if self._limit is None or self._parents is not None:
            settle(self.url, self.report, self._resume, self._parents, self._prune, whole=self._limit is None, hide=away)


__all__ = ["OnBad", "Run", "embed"]
