"""A bounded ring between the training thread and the writer: batches go in at the loop's pace, out at the disk's."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
PAUSE_S = 0.0005        # how often whoever waits looks whether it still has to


class GivenUp(Exception):
    """Raised by a sink: the batch is done with; its cause is the problem to tell."""


class Ring(Generic[T]):
    """``slots`` are used over and over: the training thread fills the next free one and hands it over, a thread of the ring's
    own calls ``sink`` with one after the other.

    A slot on which ``sink`` raises stays the next one, and the thread rests until somebody takes the problem: nothing is lost
    before it was told.

    There is no lock. Each of the two counters has one thread that writes it, and so an interrupt at any place leaves a batch
    wholly in the ring or not in it, and never leaves a lock held. Whoever waits sleeps in small steps, for the same reason.
    """

    def __init__(self, slots: list[T], sink: Callable[[T], None]) -> None:
        self._slots, self._sink = slots, sink
        self._put = self._done = 0
        self._ended = False
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._problem: BaseException | None = None
        threading.Thread(target=self._run, name="zstore-recorder", daemon=True).start()

    @property
    def waiting(self) -> int:
        """How many slots were handed over and are not through."""
        return self._put - self._done

    def free(self) -> T | None:
        """The slot to fill next; None where all of them wait."""
        return self._slots[self._put % len(self._slots)] if self.waiting < len(self._slots) else None

    def put(self) -> None:
        """Hand over the slot that ``free`` gave."""
        self._put += 1
        self._wake.put(None)

    def wait_for_room(self) -> None:
        """Until a slot is free, or a problem stands in the way."""
        self._wait(lambda: self.waiting < len(self._slots))

    def drain(self) -> None:
        """Until all that was put went through, or a problem stands in the way."""
        self._wait(lambda: not self.waiting)

    def take_problem(self) -> BaseException | None:
        """What went wrong, once; the thread then goes on, with the same slot unless the sink gave it up."""
        problem = self._problem
        if problem is not None:
            self._problem = None
            self._wake.put(None)
        return problem

    def end(self) -> list[T]:
        """Let the thread end, and give the slots that it leaves behind. It is not waited for: it may hang in its storage."""
        self._ended = True
        self._wake.put(None)
        return [self._slots[number % len(self._slots)] for number in range(self._done, self._put)]

    def _wait(self, enough: Callable[[], bool]) -> None:
        self._wake.put(None)            # an interrupt may have come between a hand-over and its wake
        while not enough() and self._problem is None:
            time.sleep(PAUSE_S)

    def _run(self) -> None:
        while not self._ended:
            self._wake.get()
            while self._problem is None and self.waiting and not self._ended:
                try:
                    self._sink(self._slots[self._done % len(self._slots)])
                except GivenUp as error:
                    self._problem = error.__cause__
                    self._done += 1
                except BaseException as error:
                    self._problem = error
                else:
                    self._done += 1
