"""The system calls of a local storage, numbered: a test stops a process at one of them, or keeps a journal of them all.

``System`` stands in for the module ``os`` in the four files that touch the disk. Calls that change the disk are done one
at a time, so that the numbers are the order in which they took effect.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from zstore.storage import descriptors, flocks, folder, growing, local

# What changes the disk, or makes a change durable. "open" is an open for reading; "create" makes a file.
KINDS = ("open", "create", "write", "fsync", "fsync folder", "rename", "link", "unlink", "mkdir")


@dataclass(frozen=True)
class Call:
    """One system call. ``target`` is the new name of a rename or link, ``data`` what a write writes."""

    number: int
    kind: str
    path: str
    target: str = ""
    data: bytes = b""
    descriptor: int = -1


Hook = Callable[[Call], None]


def _nothing(call: Call) -> None:
    """The hook that does nothing."""


class System:
    """The module ``os``, with ``before`` and ``after`` called around every call of ``KINDS``.

    ``syncs=False`` leaves fsync out: a kill keeps the page cache, and the model of a power loss has its own.
    """

    def __init__(self, before: Hook = _nothing, after: Hook = _nothing, *, syncs: bool = False) -> None:
        self.calls = 0
        self._before, self._after, self._syncs = before, after, syncs
        self._lock = threading.RLock()
        self._paths: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        with self._lock:
            new = flags & os.O_CREAT and not os.path.lexists(path)
            with self._watched("create" if new else "open", path):
                descriptor = os.open(path, flags, mode)
            self._paths[descriptor] = path
            return descriptor

    def close(self, descriptor: int) -> None:
        with self._lock:
            self._paths.pop(descriptor, None)
            os.close(descriptor)

    def writev(self, descriptor: int, buffers: Sequence[Any]) -> int:
        data = b"".join(buffers)
        with self._watched("write", self._paths[descriptor], data=data, descriptor=descriptor):
            return os.writev(descriptor, buffers)

    def fsync(self, descriptor: int) -> None:
        path = self._paths[descriptor]
        with self._watched("fsync folder" if os.path.isdir(path) else "fsync", path):
            if self._syncs:
                os.fsync(descriptor)

    def replace(self, source: str, target: str) -> None:
        with self._watched("rename", source, target):
            os.replace(source, target)

    def link(self, source: str, target: str) -> None:
        with self._watched("link", source, target):
            os.link(source, target)

    def unlink(self, path: str) -> None:
        with self._watched("unlink", path):
            os.unlink(path)

    def mkdir(self, path: str) -> None:
        with self._watched("mkdir", path):
            os.mkdir(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        with self._watched("mkdir", path):
            os.makedirs(path, exist_ok=exist_ok)

    @contextmanager
    def _watched(self, kind: str, path: str, target: str = "", data: bytes = b"", descriptor: int = -1) -> Iterator[None]:
        """Number the call; ``after`` hears only of one that succeeded."""
        with self._lock:
            self.calls += 1
            call = Call(self.calls, kind, path, target, data, descriptor)
            self._before(call)
            yield
            self._after(call)


@contextmanager
def installed(system: System) -> Iterator[System]:
    """Let every local storage of this process make its calls through ``system``."""
    modules = (local, folder, growing, descriptors, flocks)
    before = [vars(module)["os"] for module in modules]
    for module in modules:
        vars(module)["os"] = system
    try:
        yield system
    finally:
        for module, module_os in zip(modules, before, strict=True):
            vars(module)["os"] = module_os


def kill_at(number: int, *, torn: bool = False) -> Hook:
    """A ``before`` that ends this process by SIGKILL at that call; ``torn``: after half of the bytes, if it writes."""
    def hook(call: Call) -> None:
        if call.number == number:
            if torn and call.kind == "write":
                os.write(call.descriptor, call.data[:len(call.data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait()        # the other threads may run for a moment more; this one must not
    return hook
