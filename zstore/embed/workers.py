"""Several processes, each with a model of its own, share one queue of texts and one session of writers."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, cast

from zstore.embed.columns import Columns
from zstore.embed.engine import Batch, vectors
from zstore.embed.models import load
from zstore.embed.resume import Job, Resume
from zstore.embed.sink import Engine, Result, row_fields
from zstore.embed.types import Failure
from zstore.writer import Writer

_PATIENCE_S = 120.0
_PART = 256         # texts that go to a process together
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


def together(count: int, task: Task, texts: Iterator[tuple[Job, str]], resume: Resume) -> Generator[Result]:
    """Embed and append, in ``count`` processes."""
    first = list(islice(texts, 1))      # the types of ids and kept fields, which the processes need, are settled by then
    if not first:
        return
    with closing(Workers(count, task).results(chain(first, texts))) as results:
        for result in results:
            if not isinstance(result, Failure):
                resume.landed(result[0])
            yield result


class Workers:
    """``count`` processes. They end, with what they have committed, when the results are no longer read."""

    def __init__(self, count: int, task: Task) -> None:
        context = multiprocessing.get_context("spawn")      # a fork would inherit torch's threads
        self._inbox: Any = context.Queue(2 * count)
        self._outbox: Any = context.Queue()
        self._stop: Any = context.Event()
        self._all = [context.Process(target=_work, args=(member, task, self._inbox, self._outbox, self._stop), daemon=True)
                     for member in range(1, count + 1)]
        self._ended = 0
        self._flying: dict[int, Job] = {}

    def results(self, texts: Iterator[tuple[Job, str]]) -> Generator[Result]:
        """What became of the texts, in any order: rows that were appended, and failures whose id is the job. Raises what a
        process raises, RuntimeError where one died."""
        try:
            self._start()
            number = 0
            while part := list(islice(texts, _PART)):
                numbered = list(enumerate(part, number))
                number += len(part)
                self._flying |= {at: job for at, (job, _) in numbered}
                yield from self._given([(at, job, text) for at, (job, text) in numbered])
            for _ in self._all:
                yield from self._given(None)
            while self._ended < len(self._all):
                yield from self._heard(0.2)
        finally:
            self._end()

    def _start(self) -> None:
        # Control-C, and a SIGTERM to all, reach the processes too; they end when this one says so. A mask is inherited, and
        # holds while Python itself is starting.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            for process in self._all:
                process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _given(self, part: Any) -> Iterator[Result]:
        while True:
            try:
                self._inbox.put(part, timeout=0.05)
                yield from self._heard(0)
                return
            except queue.Full:
                yield from self._heard(0.2)

    def _heard(self, wait: float) -> Iterator[Result]:
        while True:
            try:
                kind, *said = self._outbox.get(timeout=wait) if wait else self._outbox.get_nowait()
            except queue.Empty:
                self._check()
                return
            wait = 0
            if kind == "rows":
                numbers, stats = said
                yield [self._flying.pop(at) for at in numbers], stats
            elif kind == "failure":
                at, stage, reason, sample = said
                yield Failure(self._flying.pop(at), stage, reason, sample=sample)
            elif kind == "error":
                raise said[0]
            else:
                self._ended += 1

    def _check(self) -> None:
        dead = [process for process in self._all if process.exitcode]
        if dead:
            raise RuntimeError(f"the worker process {dead[0].pid} died with exit code {dead[0].exitcode}; what was "
                               "committed is there: run it again")

    def _end(self) -> None:
        """Until every process has committed what it has, and is gone."""
        self._stop.set()
        self._inbox.cancel_join_thread()
        heard = time.monotonic()
        while any(process.is_alive() for process in self._all):
            try:
                self._outbox.get(timeout=0.1)       # a process that waits to be heard does not end
                heard = time.monotonic()
            except queue.Empty:
                pass
            if time.monotonic() - heard > _PATIENCE_S:      # it waits for a lock that a killed one held
                for process in self._all:
                    process.kill()
        self._inbox.close()
        self._outbox.close()


def _work(member: int, task: Task, inbox: Any, outbox: Any, stop: Any) -> None:
    """One process."""
    for name in _THREADS:
        os.environ.setdefault(name, str(task.threads))
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if gpus > 1:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", str((member - 1) % gpus))

    def over() -> bool:
        return bool(stop.is_set()) or os.getppid() != task.parent

    def texts() -> Iterator[tuple[tuple[int, Job], str]]:
        while not over():
            try:
                part = inbox.get(timeout=0.5)
            except queue.Empty:
                continue
            if part is None:
                return
            for at, job, text in part:
                yield (at, job), text

    try:
        encoder = load(task.model, **task.settings)
        window, budget, exact = task.engine
        made = vectors(texts(), encoder, window=window, budget=budget, exact=exact)
        with Writer(task.url, member=member, **task.writer) as writer, \
                closing(cast("Generator[Batch | Failure]", made)) as results:
            for result in results:
                if isinstance(result, Failure):
                    outbox.put(("failure", result.id[0], result.stage, result.reason, result.sample))
                else:
                    keys, found, stats = result
                    jobs = [job for _, job in keys]
                    writer.append([job.id for job in jobs], found, epoch=task.epoch, **row_fields(task.columns, jobs))
                    outbox.put(("rows", [at for at, _ in keys], stats))
                if over():
                    break
        outbox.put(("end",))
    except BaseException as error:
        outbox.put(("error", _plain(error)))


def _plain(error: BaseException) -> BaseException:
    """The error as the queue can carry it to another process of this run."""
    try:
        again = ForkingPickler.loads(ForkingPickler.dumps(error))
        return error if type(again) is type(error) and isinstance(error, Exception) else RuntimeError(repr(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
