"""How long a request is tried again, and how long one try may take. Nothing remote waits longer than their sum."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from zstore.storage.backend import Doubtful

PATIENCE_S = 30.0           # tries begin within this time
ATTEMPT_S = 15.0            # and each ends within this, and what its bytes need
LEAST_BYTES_PER_S = 500_000
_FIRST_S, _LONGEST_S = 0.05, 4.0

T = TypeVar("T")


class Patience:
    """The time that is left for one request, from now on."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._deadline = self._begin + PATIENCE_S
        self._pause = _FIRST_S

    @property
    def spent_s(self) -> float:
        """Since its begin: the last try may end long after the time in which tries begin."""
        return time.monotonic() - self._begin

    def rest(self) -> bool:
        """Sleep before the next try, longer each time, and jittered, so that many clients do not march in step. False,
        without sleeping, when the time is up."""
        pause = self._pause * (0.5 + random.SystemRandom().random() / 2)
        self._pause = min(2 * self._pause, _LONGEST_S)
        if time.monotonic() + pause > self._deadline:
            return False
        time.sleep(pause)
        return True


def attempt_s(size: int = 0) -> float:
    """How long one try may take that carries so many bytes."""
    return ATTEMPT_S + size / LEAST_BYTES_PER_S


def patiently(act: Callable[[], T]) -> T:
    """A request that may be sent more than once, until it is answered. TimeoutError, naming the object, when the time is
    up."""
    patience = Patience()
    while True:
        try:
            return act()
        except Doubtful as error:
            if not patience.rest():
                raise TimeoutError(f"{error}; given up after {patience.spent_s:.0f} s") from None
