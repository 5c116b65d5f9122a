"""Several processes, each with a model of its own, share one queue of texts and one session of writers."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, NoReturn, cast

from zstore.embed.columns import Columns
from zstore.embed.engine import Batch, vectors
from zstore.embed.gpus import take_gpu
from zstore.embed.models import load
from zstore.embed.portions import Portions
from zstore.embed.resume import Job, Resume
from zstore.embed.sink import Engine, Result, row_fields
from zstore.embed.types import Failure
from zstore.notices import warn
from zstore.writer import Writer

_PATIENCE_S = 120.0     # with a process that shall end
_SILENCE_S = 60.0       # of a process, until it is named: a long batch is nothing wrong
_PART = 256             # texts that go to a process together
_PART_S = 0.5           # of a slow source, those that came by then
_PAUSE_S = 0.1          # a process that waits longer for texts embeds those that it has
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


@dataclass(frozen=True)
class Task:
    """What each process needs to know. ``writer``: the arguments of Writer, session among them."""

    url: str
    model: Any
    settings: Mapping[str, Any]
    engine: Engine
    epoch: int
    columns: Columns
    writer: Mapping[str, Any]
    threads: int
    parent: int


def together(count: int, task: Task, texts: Iterator[tuple[Job, str] | None], resume: Resume) -> Generator[Result]:
    """Embed and append, in ``count`` processes."""
    first = list(islice(texts, 1))      # the types of ids and kept fields, which the processes need, are settled by then
    if not first:
        return
    with closing(Workers(count, task).results(chain(first, texts))) as results:
        for result in results:
            if not isinstance(result, Failure):
                resume.landed(result[0])
            yield result


class _Member:
    """One process. What it says comes through a pipe of its own, which ends when it does."""

    def __init__(self, context: Any, number: int, task: Task, inbox: Any, stop: Any) -> None:
        self.ears, self.mouth = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(number, task, inbox, self.mouth, stop), daemon=True)
        self.done, self.heard = False, time.monotonic()

    def start(self) -> None:
        self.process.start()
        self.mouth.close()

    def said(self) -> tuple[Any, ...]:
        """The next that it said. Raises RuntimeError where it died."""
        try:
            said: tuple[Any, ...] = self.ears.recv()
        except (EOFError, OSError):
            self.lost()
        self.heard = time.monotonic()
        self.done = said[0] in ("end", "error")
        return said

    def lost(self) -> NoReturn:
        self.done = True
        self.process.join(10)
        raise RuntimeError(f"the worker process {self.process.pid} died with exit code {self.process.exitcode}; what was "
                           "committed is there: run it again")


class Workers:
    """``count`` processes. They end, with what they have committed, when the results are no longer read."""

    def __init__(self, count: int, task: Task) -> None:
        context = multiprocessing.get_context("spawn")      # a fork would inherit torch's threads
        self._inbox: Any = context.Queue(2 * count)
        self._stop: Any = context.Event()
        self._all = [_Member(context, number, task, self._inbox, self._stop) for number in range(1, count + 1)]
        self._flying: dict[int, Job] = {}
        self._named = 0.0       # when the silent ones were

    def results(self, texts: Iterator[tuple[Job, str] | None]) -> Generator[Result]:
        """What became of the texts, in any order: rows that were appended, and failures whose id is the job. Raises what a
        process raises, RuntimeError where one died; what ``texts`` raises when all that it gave before has its result. Warns
        where nobody waits for results any more, and a process then failed."""
        told = False
        try:
            self._start()
            number = 0
            source = Portions(texts, _PART)
            while not source.ended:
                part = source.next(_PART_S)
                if part:
                    self._flying |= {at: job for at, (job, _) in enumerate(part, number)}
                    yield from self._given((number, [job.id for job, _ in part], [job.hash for job, _ in part],
                                            [job.values for job, _ in part], [text for _, text in part]))
                number += len(part)
            for _ in self._all:
                yield from self._given(None)
            since = time.monotonic()
            while not all(member.done for member in self._all):
                yield from self._heard(0.2)
                self._name_silent(since)
            if source.error is not None:
                raise source.error
            if self._flying:
                raise RuntimeError(f"of {len(self._flying):,} texts the worker processes said nothing; what was committed is "
                                   "there: run it again")
        except Exception:
            told = True         # it is why the run ends: what others say of it adds nothing
            raise
        finally:
            error = self._end()
            if error is not None and not told:
                warn("the last rows of a worker process may not be committed, and are embedded again by the next run: "
                     f"{type(error).__name__}: {error}")

    def _start(self) -> None:
        # Control-C, and a SIGTERM to all, reach the processes too; they end when this one says so. A mask is inherited, and
        # holds while Python itself is starting.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            for member in self._all:
                member.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _given(self, part: Any) -> Iterator[Result]:
        since = time.monotonic()
        while True:
            try:
                self._inbox.put(part, timeout=0.05)
                yield from self._heard(0)
                return
            except queue.Full:
                yield from self._heard(0.2)
                self._name_silent(since)

    def _heard(self, seconds: float) -> Iterator[Result]:
        while ready := self._speaking(seconds):
            seconds = 0
            for member in ready:
                kind, *said = member.said()
                if kind == "rows":
                    numbers, stats = said
                    yield [self._flying.pop(at) for at in numbers], stats
                elif kind == "failure":
                    at, stage, reason, sample = said
                    yield Failure(self._flying.pop(at), stage, reason, sample=sample)
                elif kind == "error":
                    raise said[0]
        for member in self._all:
            # A process of its own may hold the pipe of one that is gone.
            if not member.done and member.process.exitcode is not None and not member.ears.poll():
                member.lost()

    def _speaking(self, seconds: float) -> list[_Member]:
        ears: dict[Any, _Member] = {member.ears: member for member in self._all if not member.done}
        return [ears[one] for one in wait(list(ears), seconds)]

    def _name_silent(self, since: float, ending: bool = False) -> None:
        """Say which processes are waited for, where there is nothing else to do since then."""
        now = time.monotonic()
        silent = [str(member.process.pid) for member in self._all
                  if member.process.is_alive() and now - max(member.heard, since, self._named) >= _SILENCE_S]
        if silent:
            self._named = now
            way_out = "is killed soon, or by Control-C" if ending else "is in a long batch, or stuck: Control-C ends the run"
            warn(f"waiting for the worker process {', '.join(silent)}, which said nothing for {_SILENCE_S:g} s and {way_out}; "
                 "what was committed stays")

    def _last_words(self, seconds: float) -> Iterator[BaseException]:
        """The errors among what the processes say while they end. One that waits to be heard does not end."""
        while ready := self._speaking(seconds):
            seconds = 0
            for member in ready:
                try:
                    kind, *said = member.said()
                except RuntimeError as error:
                    yield error
                else:
                    if kind == "error":
                        yield said[0]

    def _end(self) -> BaseException | None:
        """Until every process has committed what it has, and is gone; gives the first error among them. What interrupts this
        kills them."""
        errors: list[BaseException] = []
        self._stop.set()
        self._inbox.cancel_join_thread()
        since = time.monotonic()
        try:
            while any(member.process.is_alive() for member in self._all):
                errors += self._last_words(0.1)
                if time.monotonic() - max(since, *(member.heard for member in self._all)) > _PATIENCE_S:
                    break
                self._name_silent(since, ending=True)
            errors += self._last_words(0)
        finally:
            for member in self._all:
                if member.process.is_alive():
                    member.process.kill()
                    member.process.join()
                member.ears.close()
            self._inbox.close()
        return errors[0] if errors else None


def _work(number: int, task: Task, inbox: Any, mouth: Connection, stop: Any) -> None:
    """One process."""
    for name in _THREADS:
        os.environ.setdefault(name, str(task.threads))
    take_gpu(number)

    def over() -> bool:
        return bool(stop.is_set()) or os.getppid() != task.parent

    def texts() -> Iterator[tuple[tuple[int, Job], str] | None]:
        waiting = False         # some were given, and may wait for more
        while not over():
            try:
                part = inbox.get(timeout=_PAUSE_S if waiting else 0.5)
            except queue.Empty:
                if waiting:
                    yield None
                waiting = False
                continue
            if part is None:
                return
            waiting = True
            first, *columns = part
            for at, (identity, hashed, values, text) in enumerate(zip(*columns, strict=True), first):
                yield (at, Job(identity, hashed, values)), text

    try:
        encoder = load(task.model, **task.settings)
        window, budget, exact = task.engine
        made = vectors(texts(), encoder, window=window, budget=budget, exact=exact)
        with Writer(task.url, member=number, **task.writer) as writer, \
                closing(cast("Generator[Batch | Failure]", made)) as results:
            writer.tells_superseded = False
            for result in results:
                if isinstance(result, Failure):
                    mouth.send(("failure", result.id[0], result.stage, result.reason, result.sample))
                else:
                    keys, found, stats = result
                    jobs = [job for _, job in keys]
                    writer.append([job.id for job in jobs], found, epoch=task.epoch, **row_fields(task.columns, jobs))
                    mouth.send(("rows", [at for at, _ in keys], stats))
                if over():
                    break
        mouth.send(("end",))
    except BaseException as error:
        with suppress(OSError):         # the one that listens is gone
            mouth.send(("error", _plain(error)))


def _plain(error: BaseException) -> BaseException:
    """The error as the queue can carry it to another process of this run."""
    try:
        again = ForkingPickler.loads(ForkingPickler.dumps(error))
        return error if type(again) is type(error) and isinstance(error, Exception) else RuntimeError(repr(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
