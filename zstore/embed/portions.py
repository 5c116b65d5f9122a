"""Some items of a source at a time; of a slow one those that came, so that they need not wait for the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Portions(Generic[T]):
    """At most ``most`` items at a time. A None of the source is no item: it says that more may take a while."""

    def __init__(self, source: Iterator[T | None], most: int) -> None:
        self._source, self._most = source, most
        self.ended = False
        self.full = True                        # the last portion had ``most``: the source is a fast one
        self.error: Exception | None = None     # that ended the source

    def next(self, seconds: float) -> list[T]:
        """The next items: what came by ``seconds``, and the first one however long it takes. An empty list before a None, and
        at the end. What the source raises ends it: the reader raises ``error`` when it is done with the items before it."""
        found: list[T] = []
        started = time.perf_counter()
        self.full = False
        try:
            for item in self._source:
                if item is None:
                    return found
                found.append(item)
                self.full = len(found) >= self._most
                if self.full or time.perf_counter() - started >= seconds:
                    return found
        except Exception as error:
            self.error = error
        self.ended = True
        return found
