"""Locks on files that die with the process that took them, and with no other.

``flock`` belongs to the open file description, which a forked child shares. Two stories follow from that. A data
loader's worker outlives a trainer that was killed, and its inherited descriptor keeps the dead run "alive". And a
worker that exits politely and unlocks takes the lock from its living parent. So every descriptor that may carry a lock
is known here from the moment it is opened, and a forked child closes them all, which neither keeps nor drops anything.
"""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import suppress

_held: set[int] = set()
_doors: dict[str, threading.Lock] = {}
# Taken around "open and remember" and by every fork: no child can be born between the two and inherit a stranger.
_gate = threading.RLock()


def _forget_in_child() -> None:
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()
    # A door may have been held by a thread that does not exist here.
    _doors.clear()
    _gate.release()


os.register_at_fork(before=_gate.acquire, after_in_parent=_gate.release, after_in_child=_forget_in_child)


class FileLock:
    """A flock that this process holds until ``release`` or its death; nothing in a forked child."""

    __slots__ = ("_descriptor", "_process")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._process = os.getpid()

    def release(self) -> None:
        """Unlock and close. A second time, or in a forked child, it does nothing."""
        with _gate:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor < 0 or self._process != os.getpid():
                return
            # Unlock, for a child that a C library forked past our hook may still have the description open.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            _drop(descriptor)


def take(path: str, flags: int, operation: int) -> FileLock | None:
    """Open the path, lock it, and check that the lock is on what the path names now.

    None when ``operation`` has LOCK_NB and someone is in the way; otherwise waits. OSError as of open and flock.
    """
    while True:
        descriptor = _open(path, flags)
        try:
            fcntl.flock(descriptor, operation)
            if _names(path, descriptor):
                return FileLock(descriptor)
        except BlockingIOError:
            _drop(descriptor)
            return None
        except BaseException:
            _drop(descriptor)
            raise
        # gc removed the file between our open and our lock: this lock protects nothing that anyone can find.
        _drop(descriptor)


def door(path: str) -> threading.Lock:
    """The one lock among this process's threads for a path.

    NFS makes flock a lock of the process, under which two of its threads would both be let in.
    """
    with _gate:
        return _doors.setdefault(path, threading.Lock())


def _open(path: str, flags: int) -> int:
    with _gate:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
        _held.add(descriptor)
        return descriptor


def _drop(descriptor: int) -> None:
    with _gate:
        if descriptor in _held:
            _held.remove(descriptor)
            with suppress(OSError):     # the lock is gone whatever the system says, and nothing was written
                os.close(descriptor)


def _names(path: str, descriptor: int) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))
