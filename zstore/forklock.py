"""A lock among the threads of a process and the processes forked from it, which the death of its holder frees."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

_file = -1
_count = 0
_alive: weakref.WeakSet[ForkLock] = weakref.WeakSet()


class ForkLock:
    """Not reentrant. Holders in other processes are seen only where the lock was made before the fork.

    One byte of an unlinked file stands for each lock. Record locks belong to the process, not to the descriptor: a
    child inherits none, and the kernel drops a killed holder's. Among threads they exclude nobody, so each process adds a
    lock of its own, which a child makes anew, for the thread that held its parent's does not exist there.
    """

    def __init__(self) -> None:
        global _count
        self._byte = _count
        _count += 1
        self._thread = threading.Lock()
        self._file = _the_file()
        _alive.add(self)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it, waiting."""
        with self._thread:
            self._lock()
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._byte)

    @contextmanager
    def tried(self) -> Iterator[bool]:
        """Hold it if nobody does; True when held."""
        if not self._thread.acquire(blocking=False):
            yield False
            return
        try:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._byte)
            except OSError:
                yield False
                return
            try:
                yield True
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._byte)
        finally:
            self._thread.release()

    def _lock(self) -> None:
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX, 1, self._byte)
                return
            except OSError as error:
                # The kernel looks for cycles among processes. Two threads of ours that wait for and hold different
                # bytes look like one to it, though each of them will let go.
                if error.errno != errno.EDEADLK:
                    raise
                time.sleep(0.0005)

    def _renew(self) -> None:
        self._thread = threading.Lock()


def _the_file() -> int:
    # Never closed: closing any descriptor of a file drops all record locks that the process has on it.
    global _file
    if _file < 0:
        if hasattr(os, "memfd_create"):
            with contextlib.suppress(OSError):
                _file = os.memfd_create("zstore-locks", os.MFD_CLOEXEC)
        if _file < 0:
            descriptor, path = tempfile.mkstemp(prefix="zstore-locks-")
            os.unlink(path)
            _file = descriptor
    return _file


def _in_child() -> None:
    for lock in list(_alive):
        lock._renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
