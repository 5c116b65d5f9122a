"""The object of an unfilled shard, written while its rows come in, so that its end finds little to write and to sync.

Only a saving: what goes wrong here is forgotten, and the object is written anew, from memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from zstore._typing import Buffer
from zstore.storage.base import Draft, Growing, Storage, octets
from zstore.writing.crew import Crew, Job


class Ahead:
    """Called by one thread at a time. The parts that it is fed are final, and stay until ``finish`` or ``drop``."""

    def __init__(self, storage: Storage, crew: Crew, tag: str, step: int) -> None:
        """``step``: bytes that are written at once. Large and even pieces get large pages of the system's cache, which
        halves what they cost."""
        self._storage, self._crew, self._tag, self._step = storage, crew, tag, max(step, 1)
        self._parts: deque[list[Buffer]] = deque()
        self._writing = threading.Lock()
        self._job: Job[None] | None = None
        self._file: Growing | None = None
        self._given = 0             # bytes of the object that the file was given
        self._off = False           # there is no such file here, or its disk failed

    def feed(self, body: list[Buffer]) -> None:
        """The object begins with these parts; those that are new go to the file, in the background."""
        if self._off:
            return
        size = sum(octets(part).nbytes for part in body)
        upto = size // self._step * self._step
        if upto == self._given:
            return
        self._parts.append(_between(body, self._given, upto))
        self._given = upto
        if self._job is None or self._job.done:
            self._job = self._crew.submit(self._write)

    def finish(self, parts: list[Buffer]) -> Draft | None:
        """The draft of an object of these parts, which begin as those that were fed; None where it must be written whole.
        The next object is another one."""
        self._write()
        file, given, off = self._file, self._given, self._off
        self._file, self._given, self._off = None, 0, False
        if file is None:
            return None
        if not off:
            try:
                return file.finish(_between(parts, given))
            except OSError:
                return None
        file.discard()
        return None

    def drop(self) -> None:
        """There will be no such object."""
        self._parts.clear()
        self._write()
        if self._file is not None:
            self._file.discard()
        self._file, self._given = None, 0

    def _write(self) -> None:
        # Whoever wants the end writes what is left, and waits for no job: all of the crew might be waiting like that.
        with self._writing:
            while self._parts:
                parts = self._parts.popleft()
                try:
                    if self._file is None and not self._off:
                        self._file = self._storage.begin(self._tag)
                    if self._file is None:
                        self._off = True
                    elif not self._off:
                        self._file.add(parts)
                except OSError:
                    self._off = True


def _between(parts: Sequence[Buffer], start: int, stop: int = 2**63) -> list[Buffer]:
    """Bytes ``[start, stop)`` of the parts joined."""
    out: list[Buffer] = []
    for part in parts:
        view = octets(part)
        if start < view.nbytes and stop > 0:
            out.append(view[start:stop])
        start, stop = max(start - view.nbytes, 0), stop - view.nbytes
    return out
