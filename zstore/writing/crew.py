"""A small crew of daemon threads. The standard pools refuse work once the interpreter exits, which is when a Writer
that was left open commits; these go on until the process ends, and run on the caller's thread when they can't."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Job(Generic[T]):
    """A call under way. ``result()`` waits, and raises what the call raised.

    The wait is a bare lock's, entered by ``with``: an Event is Python inside, and an interrupt there can leave its own
    lock held, for whoever wants to tell that the job is done."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._under_way = threading.Lock()
        self._under_way.acquire()
        self._ended = False
        self._error: BaseException | None = None
        self._value: Any = None

    def run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:      # handed to whoever waits
            self._error = error
        self._ended = True
        self._under_way.release()

    @property
    def done(self) -> bool:
        return self._ended

    def wait(self) -> None:
        """Until the call has ended."""
        with self._under_way:
            pass

    def result(self) -> T:
        self.wait()
        if self._error is not None:
            raise self._error
        value: T = self._value
        return value


class Crew:
    """``size`` threads that run jobs in the order in which they were given."""

    def __init__(self, size: int, name: str) -> None:
        self._jobs: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        self._size = 0
        self._threads: list[threading.Thread] = []
        for number in range(size):
            try:
                thread = threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
                thread.start()
                self._threads.append(thread)
                self._size += 1
            except RuntimeError:            # the interpreter is exiting: the caller's thread does the work
                break

    def do(self, call: Callable[[], T]) -> T:
        """Run it on a thread of the crew and wait. Signals reach the main thread alone: an interrupt can't stop the call
        half-way. The first one is raised when the call has ended, a second one at once, and the call then goes on."""
        if threading.current_thread() in self._threads:
            return call()
        job = self.submit(call)
        try:
            job.wait()
        except BaseException:
            job.wait()
            raise
        return job.result()

    def submit(self, call: Callable[[], T]) -> Job[T]:
        """Run it soon."""
        job = Job(call)
        if self._size:
            self._jobs.put(job)
        else:
            job.run()
        return job

    def run_all(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Run all of them at once, the last on the caller's thread; every one ends before the first error is raised."""
        jobs: list[Job[T]] = []
        here = len(calls) - 1
        if threading.current_thread() in self._threads and self._size == 1:
            here = 0                        # whoever waits on the only thread waits for ever
        for number, call in enumerate(calls):
            if number < here:
                jobs.append(self.submit(call))
            else:
                jobs.append(Job(call))
                jobs[-1].run()
        for job in jobs:
            job.wait()
        return [job.result() for job in jobs]

    def stop(self) -> None:
        """Let the threads end once they have nothing to do."""
        for _ in range(self._size):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
