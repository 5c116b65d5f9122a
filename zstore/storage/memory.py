"""``memory://``: objects in fsspec's own in-process file system, so that zarr opens the same URL.

For tests and demonstrations. "Durable" means until the process ends; a forked child has its own copy from then on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from zstore.storage.base import Draft, Handle, Lock, checked, checked_folder
from zstore.storage.drafts import spent
from zstore.storage.remote import PinnedHandle, RemoteStorage

# fsspec's own exclusive create looks and then writes; under this lock the two are one step.
_steps = threading.RLock()
_changed = threading.Condition(_steps)
_EXCLUSIVE = -1
_holders: dict[tuple[str, str], int] = {}


def _forget_in_child() -> None:
    global _steps, _changed
    _steps = threading.RLock()
    _changed = threading.Condition(_steps)
    _holders.clear()


os.register_at_fork(after_in_child=_forget_in_child)


class MemoryLock:
    """One hold on a live object, in this process."""

    __slots__ = ("_key", "_process", "_released")

    def __init__(self, key: tuple[str, str]) -> None:
        self._key = key
        self._process = os.getpid()
        self._released = False

    def release(self) -> None:
        """Let go; a second time, or in a forked child, it does nothing."""
        with _changed:
            if self._released or self._process != os.getpid():
                return
            self._released = True
            left = _holders.pop(self._key)
            if left > 1:
                _holders[self._key] = left - 1
            _changed.notify_all()


class MemoryStorage(RemoteStorage):
    """See ``Storage``. Folders exist while something is in them; handles pin their bytes."""

    distant = False
    rewrites = True
    patience_s = 2.0

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(url, options)
        self.url = f"memory://{self._root.strip('/')}"

    def offers(self) -> dict[str, str]:
        """See ``Storage.offers``."""
        return {"create": "atomic (one process)", "rewrite": "atomic (one process)", "locks": "one process", "mapping": "no"}

    def open(self, name: str, end: int = 0) -> Handle:
        """See ``Storage.open``."""
        return PinnedHandle(*self.fetch(name))

    def exists(self, name: str) -> bool:
        """See ``Storage.exists``."""
        return bool(self._fs.isfile(self._path(name)))

    def make_folders(self, folders: Iterable[str]) -> None:
        """Checks the names; there is nothing to make."""
        for folder in folders:
            checked_folder(folder)

    def replace(self, draft: Draft, name: str, *, once: bool = False) -> None:
        """See ``Storage.replace``."""
        data = spent(draft)
        with _steps:
            self._fs.pipe_file(self._path(name), data)

    def rewrite(self, draft: Draft, name: str, over: str | None) -> str:
        """See ``Storage.rewrite``."""
        self.replace(draft, name)
        return ""

    def create(self, draft: Draft, name: str) -> bool:
        """See ``Storage.create``."""
        data = spent(draft)
        path = self._path(name)
        with _steps:
            if self._fs.exists(path):
                return False
            self._fs.pipe_file(path, data)
            return True

    def delete(self, name: str) -> None:
        """See ``Storage.delete``."""
        path = self._path(name)
        with _steps:
            if self._fs.isfile(path):
                self._fs.rm_file(path)

    def share_live(self, name: str) -> Lock:
        """See ``Storage.share_live``."""
        key = (self.url, checked(name))
        with _changed:
            _changed.wait_for(lambda: _holders.get(key, 0) != _EXCLUSIVE)
            self._touch(name)
            _holders[key] = _holders.get(key, 0) + 1
            return MemoryLock(key)

    def try_exclusive_live(self, name: str) -> Lock | None:
        """See ``Storage.try_exclusive_live``."""
        key = (self.url, checked(name))
        with _changed:
            if key in _holders:
                return None
            self._touch(name)
            _holders[key] = _EXCLUSIVE
            return MemoryLock(key)

    def is_held(self, name: str) -> bool:
        """See ``Storage.is_held``."""
        with _changed:
            return (self.url, checked(name)) in _holders

    def writable(self, only_writer: bool = False) -> None:
        """Memory is."""

    def _touch(self, name: str) -> None:
        if not self.exists(name):
            self._fs.pipe_file(self._path(name), b"")
