"""A local folder that answers as a distant storage does: by requests, each of which is written down."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from zstore.storage.base import Handle
from zstore.storage.handles import clipped
from zstore.storage.local import LocalStorage


class Request(NamedTuple):
    """One read. ``kind``: "end" (an opening, which brings the object's last bytes), "range" or "whole"; ``batch`` is the
    number of the ``read_ranges`` that a range was part of, else 0."""

    kind: str
    name: str
    start: int
    stop: int
    batch: int = 0


class DistantStorage:
    """Reads as a ``RemoteStorage`` does: no descriptors, no pinning (a handle raises OSError once its object was replaced),
    an end that comes with the opening. All the rest is the local folder's.

    With ``tells`` False it does not tell generations apart: a range comes from whatever has the name now.
    ``log`` has the requests. ``before`` is called with each of them before it is answered, and may change the store, wait
    or raise; ``answer`` is given a range's bytes, and gives what the caller gets.
    """

    distant = True

    def __init__(self, url: str | os.PathLike[str], *, tells: bool = True) -> None:
        self.tells = tells
        self.local = LocalStorage(url)
        self.url = self.local.url
        self.log: list[Request] = []
        self.before: Callable[[Request], None] = lambda request: None
        self.answer: Callable[[Request, bytes], bytes] = lambda request, data: data
        self._batch = 0
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.local, name)

    def take_log(self, *kinds: str, name: str = "") -> list[Request]:
        """The requests since the last time, those of these kinds whose object's name holds ``name``."""
        with self._lock:
            log, self.log = self.log, []
        return [request for request in log if (not kinds or request.kind in kinds) and name in request.name]

    def read(self, name: str) -> bytes:
        """See ``Storage.read``."""
        self.ask(Request("whole", name, 0, 0))
        return self.local.read(name)

    def open(self, name: str, end: int = 0) -> Handle:
        """See ``Storage.open``."""
        self.ask(Request("end", name, -end, 0))
        return _Handle(self, name, self.local.open(name), end)

    def read_ranges(self, wanted: Sequence[tuple[Handle, int, int]]) -> list[bytes]:
        """See ``Storage.read_ranges``; every range is a request of its own, all of one batch."""
        with self._lock:
            self._batch += 1
            batch = self._batch
        return [handle.ranged(offset, length, batch) if isinstance(handle, _Handle) else handle.read(offset, length)
                for handle, offset, length in wanted]

    def ask(self, request: Request) -> None:
        """Write a request down."""
        with self._lock:
            self.log.append(request)
        self.before(request)


class _Handle:
    def __init__(self, storage: DistantStorage, name: str, file: Handle, end: int) -> None:
        self._storage, self._name, self._file = storage, name, file
        self.size = file.size
        self._now = self.generation = _generation(storage, name)
        first = max(self.size - end, 0)
        self._first, self._end = first, file.read(first, end)
        if not storage.tells:
            self.generation = ""

    def read(self, offset: int, length: int) -> bytes:
        return self.ranged(offset, length, 0)

    def ranged(self, offset: int, length: int, batch: int) -> bytes:
        start, stop = clipped(self, offset, length)
        if start >= self._first:
            return self._end[start - self._first:stop - self._first]
        request = Request("range", self._name, start, stop, batch)
        self._storage.ask(request)
        data = self._file.read(start, stop - start)
        if _generation(self._storage, self._name) != self._now:
            if self._storage.tells:
                raise OSError(f"{self._name} changed while it was read")
            data = self._storage.local.read(self._name)[start:stop]
            if len(data) != stop - start:
                raise OSError(f"{self._name} changed while it was read")
        return self._storage.answer(request, data)

    def fileno(self) -> None:
        return None

    def close(self) -> None:
        self._file.close()


def _generation(storage: DistantStorage, name: str) -> str:
    """A hash of the object's bytes, as S3's."""
    return hashlib.sha256(storage.local.read(name)).hexdigest()
