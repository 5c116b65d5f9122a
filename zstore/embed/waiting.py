"""Rows that wait for the vector of another one: the first of them in memory, the others in a file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from typing import IO, Any

from zstore.embed.resume import Job

_TOGETHER = 1024        # rows that go to the file at once


class Waiting:
    """A line of jobs. ``first``: those at its head, ``most`` at the most; the file has no name, and is gone when this is."""

    def __init__(self, most: int) -> None:
        self.first: list[Job] = []
        self._most = most
        self._last: list[Job] = []              # behind those in the file
        self._file: IO[bytes] | None = None
        self._filed = self._read = 0            # jobs in the file; where in it the next ones stand

    def __len__(self) -> int:
        return len(self.first) + self._filed + len(self._last)

    def add(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if len(self.first) < self._most and len(self) == len(self.first):
                self.first.append(job)
            else:
                self._last.append(job)
                if len(self._last) >= _TOGETHER:
                    self._put_off()

    def keep(self, left: list[Job]) -> None:
        """Of ``first`` these wait on; others move up."""
        self.first = left
        while len(self) > len(self.first) and (not self.first or len(self.first) + _TOGETHER <= self._most):
            self.first += self._next()

    def _put_off(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()       # noqa: SIM115
        self._file.seek(0, 2)
        values = [(job.id, job.hash, job.values, job.place, job.changed) for job in self._last]
        self._file.write(json.dumps(values).encode() + b"\n")
        self._filed += len(self._last)
        self._last = []

    def _next(self) -> list[Job]:
        if not self._filed:
            last, self._last = self._last, []
            return last
        assert self._file is not None
        self._file.seek(self._read)
        found: list[Any] = json.loads(self._file.readline())
        self._read, self._filed = self._file.tell(), self._filed - len(found)
        if not self._filed:
            self._file.close()
            self._file, self._read = None, 0
        return [Job(identity, text, tuple(values), place, changed) for identity, text, values, place, changed in found]
