"""The clock that commits what is pending, so that a crash costs a minute at most."""

from __future__ import annotations

import threading
import weakref
from numbers import Real
from typing import Protocol


class Committing(Protocol):
    """What the clock needs of a Writer."""

    def _commit_by_clock(self) -> None: ...


class Clock:
    """Ticks every ``every_s`` seconds on a daemon thread; None never ticks."""

    def __init__(self, every_s: object, writer: Committing) -> None:
        if every_s is not None and (isinstance(every_s, bool) or not isinstance(every_s, Real) or not float(every_s) > 0):
            raise ValueError(f"commit_every_s must be a positive number of seconds, or None, not {every_s!r}")
        self._every_s = None if every_s is None else float(every_s)
        self._writer = weakref.ref(writer)
        self._stopped = threading.Event()

    def start(self) -> None:
        if self._every_s is not None and self._every_s < threading.TIMEOUT_MAX:
            threading.Thread(target=self._run, name="zstore-clock", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            writer = self._writer()
            if writer is None:
                return
            writer._commit_by_clock()
            del writer
