"""Who lives, and who has the store to itself for a moment: locks of files, or signs of life where locks reach too short."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from zstore.storage import flocks, leases
from zstore.storage.base import TMP, Lock
from zstore.storage.descriptors import named
from zstore.storage.folder import Folder
from zstore.storage.leases import Leases
from zstore.storage.mounts import Place, place_of
from zstore.storage.signs import FolderSigns

_LIVE = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
LOCK_S = 10.0


class LocalLife(Folder):
    """The locks of a folder on this machine, or on a network."""

    _place: Place | None = None
    _leased: Leases | None = None

    @property
    def patience_s(self) -> float:
        """See ``Storage.patience_s``."""
        return 2.0 if self._leases() is None else leases.STALE_S + 2

    def exclusive(self) -> AbstractContextManager[None]:
        """See ``Storage.exclusive``: flock on ``_zstore/tmp`` itself, so the lock leaves no file behind."""
        return self._exclusive()

    def share_live(self, name: str) -> Lock:
        """See ``Storage.share_live``."""
        target, signs = self._target(name), self._leases()
        if signs is not None:
            return signs.share(name)
        return self._patiently(target, _LIVE, fcntl.LOCK_SH)

    def try_exclusive_live(self, name: str) -> Lock | None:
        """See ``Storage.try_exclusive_live``."""
        target, signs = self._target(name), self._signs_of(name)
        if signs is not None:
            free = signs.try_exclusive(name)
            if free is None or self._leases() is not None:
                return free
        return self._flock(target, _LIVE, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def is_held(self, name: str) -> bool:
        """See ``Storage.is_held``; asks the lock."""
        signs = self._signs_of(name)
        if signs is not None:
            held = signs.is_held(name)
            if held or self._leases() is not None:
                return held
        if not os.path.exists(self._path(name)):
            return False
        lock = self.try_exclusive_live(name)
        if lock is None:
            return True
        lock.release()
        return False

    def _where(self) -> Place:
        if self._place is None:
            self._place = place_of(self.url)
        return self._place

    def _leases(self) -> Leases | None:
        """Signs of life, where a lock would not be seen by all who may write; None where flock is."""
        if self._leased is None and (self._where().network or not self._where().locks):
            self._leased = Leases(FolderSigns(self.url))
        return self._leased

    def _signs_of(self, name: str) -> Leases | None:
        """The same; and where another machine, to which this folder is a network's, shows signs of life."""
        if self._leases() is None and os.path.isdir(self._path(name)):
            return Leases(FolderSigns(self.url))
        return self._leases()

    def _patiently(self, path: str, flags: int, operation: int) -> flocks.FileLock:
        """The lock, or TimeoutError: whoever holds it for longer than it takes was stopped in the midst of it."""
        deadline, pause = time.monotonic() + LOCK_S, 0.0005
        while (lock := self._flock(path, flags, operation | fcntl.LOCK_NB)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, f"locked by another process for {LOCK_S:.0f} s", path)
            time.sleep(pause)
            pause = min(2 * pause, 0.01)
        return lock

    def _flock(self, path: str, flags: int, operation: int) -> flocks.FileLock | None:
        with named(path):
            try:
                return self._in_folder(path, lambda: flocks.take(path, flags, operation))
            except IsADirectoryError:       # signs of life, of a store that was copied from where there are no locks
                return flocks.take(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, operation)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        path = os.path.join(self.url, TMP)
        with flocks.door(path):
            if not os.path.isdir(path):
                self.make_folders([TMP])
            # Without locks two machines may mix their documents: these are derived, and the next commit puts them right.
            lock = self._patiently(path, os.O_RDONLY | os.O_DIRECTORY, fcntl.LOCK_EX) if self._where().locks else None
            try:
                yield
            finally:
                if lock is not None:
                    lock.release()
