"""A temporary file that is written piece by piece, while its bytes come to be: its end then finds little to write and sync."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from zstore._typing import Buffer
from zstore.storage.base import Draft, octets
from zstore.storage.descriptors import flush, named, write_all

_WRITE = 2      # SYNC_FILE_RANGE_WRITE


class LocalDraft(Draft):
    """A temporary file."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path


class GrowingFile:
    """See ``Growing``. Not thread-safe. After an error only ``discard`` is of use."""

    def __init__(self, path: str, descriptor: int) -> None:
        self._path, self._descriptor, self._size = path, descriptor, 0

    def add(self, parts: Sequence[Buffer]) -> None:
        """See ``Growing.add``."""
        size = sum(octets(part).nbytes for part in parts)
        with named(self._path):
            write_all(self._descriptor, parts)
        _start(self._descriptor, self._size, size)
        self._size += size

    def finish(self, parts: Sequence[Buffer]) -> Draft:
        """See ``Growing.finish``."""
        try:
            with named(self._path):
                write_all(self._descriptor, parts)
                flush(self._descriptor)
        except BaseException:
            self.discard()
            raise
        self._close()
        return LocalDraft(self._path)

    def discard(self) -> None:
        """See ``Growing.discard``."""
        self._close()
        remove(self._path)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def remove(path: str) -> None:
    """Remove a temporary file. One that stays is litter for gc; it must not hide the error, or the success, that we are
    here for."""
    with suppress(OSError):
        os.unlink(path)


def _libc_start() -> Callable[..., Any] | None:
    if not sys.platform.startswith("linux"):
        return None
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    found: Callable[..., Any] | None = function
    return found


_sync_file_range = _libc_start()


def _start(descriptor: int, offset: int, size: int) -> None:
    # Left alone, the kernel would keep the pages for half a minute, and the fsync would wait for all of them. Nothing rests
    # on this call: only fsync makes bytes durable, and says whether they are.
    if _sync_file_range is not None and size:
        _sync_file_range(descriptor, offset, size, _WRITE)
