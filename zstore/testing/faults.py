"""Disks that fail: system calls of the local storage that do not do what they should, one of them or all from one on.

``FaultyCalls`` stands in for ``os`` and ``fcntl`` in the modules that make the calls, so everything above them is the real
code, and a failed call may have done half of its work, as a real one may.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from zstore.storage import descriptors, flocks, folder, growing, local

#: What a fault can befall. "make": a new file or lock is opened; "open": one that is there; "sync": fsync of a file.
CALLS = ("make", "open", "write", "read", "sync", "sync folder", "close", "rename", "link", "unlink", "mkdir", "stat", "list",
         "lock")
#: Calls that take room on a disk.
GROWING = frozenset({"make", "write", "sync", "sync folder", "rename", "link", "mkdir"})
#: Calls that a read-only file system refuses.
CHANGING = frozenset({"make", "write", "rename", "link", "unlink", "mkdir"})

SHORT = "short"         # a write or read does a single byte
TORN = "torn"           # a write does half of its bytes, then the disk is full
LOST = "lost"           # the call does its work, and says EIO


@dataclass(frozen=True)
class Fault:
    """The ``nth`` (from 0) of these calls fails with an errno, or in one of the ways above; ``lasts``: so do all later ones."""

    calls: frozenset[str]
    nth: int
    how: int | str
    lasts: bool = False

    @classmethod
    def one(cls, call: str, nth: int, how: int | str) -> Fault:
        """A fault of one single call."""
        return cls(frozenset({call}), nth, how)

    def __str__(self) -> str:
        how = errno.errorcode[self.how] if isinstance(self.how, int) else self.how
        return f"{how} at {'/'.join(sorted(self.calls))} {self.nth}{' and all later' if self.lasts else ''}"


class FaultyCalls:
    """Counts the calls, and lets one fault happen. Several threads may call."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.struck = 0                             # calls that failed
        self._fault = fault
        self._matching = 0
        self._lock = threading.Lock()
        self._unsure: list[int] = []                # files whose sync failed; open, so that nothing else gets their inode
        self._paths: dict[int, tuple[str, bool]] = {}       # descriptor to its path, and whether that is a folder

    def heal(self) -> None:
        """No call fails from now on."""
        with self._lock:
            self._fault = None

    def names_of_unsure_files(self) -> int:
        """How many names the files have now whose sync failed; none may have one. Asked once."""
        links = [os.fstat(descriptor).st_nlink for descriptor in self._unsure]
        while self._unsure:
            os.close(self._unsure.pop())
        return sum(links)

    @contextmanager
    def installed(self) -> Iterator[FaultyCalls]:
        """Stand between the local storage and the system; one at a time in a process."""
        real = [(module, name, getattr(module, name)) for module in (local, folder, growing, descriptors, flocks)
                for name in ("os", "fcntl") if hasattr(module, name)]
        for module, name, value in real:
            setattr(module, name, _Stand(value, self._calls()))
        try:
            yield self
        finally:
            for module, name, value in real:
                setattr(module, name, value)

    def _calls(self) -> dict[str, Callable[..., Any]]:
        return {"open": self._open, "writev": self._writev, "pread": self._pread, "fsync": self._fsync, "close": self._close,
                "replace": self._wrap("rename", os.replace), "link": self._wrap("link", os.link),
                "unlink": self._wrap("unlink", os.unlink), "mkdir": self._wrap("mkdir", os.mkdir),
                "makedirs": self._wrap("mkdir", os.makedirs), "stat": self._wrap("stat", os.stat),
                "scandir": self._wrap("list", os.scandir), "flock": self._flock}

    def _strikes(self, call: str) -> int | str | None:
        """How this call fails, or None."""
        with self._lock:
            self.counts[call] += 1
            fault = self._fault
            if fault is None or call not in fault.calls:
                return None
            self._matching += 1
            place = self._matching - 1
            if place == fault.nth or (fault.lasts and place > fault.nth):
                self.struck += 1
                return fault.how
            return None

    def _do(self, call: str, act: Callable[[], Any], paths: tuple[Any, ...] = ()) -> Any:
        how = self._strikes(call)
        if isinstance(how, int):
            raise _error(how, *paths)
        done = act()
        if how == LOST:
            raise _error(errno.EIO, *paths)
        return done

    def _wrap(self, call: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(path: Any, *rest: Any, **options: Any) -> Any:
            if isinstance(path, int):
                return real(path, *rest, **options)
            paths = (path, rest[0]) if call in ("rename", "link") else (path,)
            return self._do(call, lambda: real(path, *rest, **options), paths)
        return wrapped

    def _open(self, path: str, flags: int, mode: int = 0o777) -> int:
        how = self._strikes("make" if flags & os.O_CREAT else "open")
        if how is not None:
            raise _error(how if isinstance(how, int) else errno.EIO, path)
        descriptor = os.open(path, flags, mode)
        self._paths[descriptor] = (path, bool(flags & os.O_DIRECTORY))
        return descriptor

    def _writev(self, descriptor: int, parts: list[memoryview]) -> int:
        how = self._strikes("write")
        if isinstance(how, int):
            raise _error(how)
        if how == SHORT:
            return os.write(descriptor, parts[0][:1])
        if how == TORN:
            os.write(descriptor, parts[0][:max(parts[0].nbytes // 2, 1)])
            raise _error(errno.ENOSPC)
        done = os.writev(descriptor, parts)
        if how == LOST:
            raise _error(errno.EIO)
        return done

    def _pread(self, descriptor: int, length: int, offset: int) -> bytes:
        how = self._strikes("read")
        if isinstance(how, int):
            raise _error(how)
        return os.pread(descriptor, min(length, 1) if how == SHORT else length, offset)

    def _fsync(self, descriptor: int) -> None:
        if self._paths.get(descriptor, ("", False))[1]:
            self._do("sync folder", lambda: os.fsync(descriptor))
            return
        try:
            self._do("sync", lambda: os.fsync(descriptor))
        except OSError:
            self._unsure.append(os.dup(descriptor))
            raise

    def _close(self, descriptor: int) -> None:
        # Linux gives the descriptor back whatever close says.
        how = self._strikes("close")
        self._paths.pop(descriptor, None)
        os.close(descriptor)
        if how is not None:
            raise _error(how if isinstance(how, int) else errno.EIO)

    def _flock(self, descriptor: int, operation: int) -> None:
        if operation & fcntl.LOCK_UN:
            fcntl.flock(descriptor, operation)
        else:
            self._do("lock", lambda: fcntl.flock(descriptor, operation))


class _Stand:
    """A module, with some of its functions exchanged."""

    def __init__(self, module: Any, instead: dict[str, Callable[..., Any]]) -> None:
        self._module, self._instead = module, instead

    def __getattr__(self, name: str) -> Any:
        return self._instead[name] if name in self._instead else getattr(self._module, name)


def _error(number: int, *paths: Any) -> OSError:
    # As the system's own: the errno picks the class, and calls on descriptors name nothing.
    if len(paths) == 2:
        return OSError(number, os.strerror(number), paths[0], None, paths[1])
    return OSError(number, os.strerror(number), *paths)


def fill_up(folder: str) -> str:
    """Write a file until the file system is full to its last block; its path, to be removed again."""
    path = os.path.join(folder, "ballast")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    os.write(descriptor, bytes(size))
    finally:
        os.close(descriptor)
    return path
