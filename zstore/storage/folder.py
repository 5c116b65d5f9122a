"""A folder and the paths in it: nothing is written outside of it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from zstore.storage.base import checked, checked_folder
from zstore.storage.descriptors import flush_folder, named

_T = TypeVar("_T")


class Folder:
    """``url`` is the absolute path; symbolic links in it are kept."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.url = os.path.abspath(os.fspath(path))

    def make_folders(self, folders: Iterable[str]) -> None:
        """See ``Storage.make_folders``; PermissionError where that is not allowed.

        Folders inside the store are synced even if they were there: another process may have made them a moment ago
        and not have synced them yet, and our commit must not hang on its fsync.
        """
        inside = [checked_folder(folder) for folder in folders]
        stale = _make(self.url)
        for folder in inside:
            self._own(folder)
        for folder in inside:
            path = self.url
            for part in folder.split("/") if folder else ():
                stale[path] = None
                path = os.path.join(path, part)
                with named(path):
                    _make_one(path)
        for path in stale:
            flush_folder(path)
        if os.path.dirname(self.url) not in stale:
            with suppress(PermissionError):  # a parent that we may enter but not read; we made no name in it
                flush_folder(os.path.dirname(self.url))

    def _path(self, name: str) -> str:
        return os.path.join(self.url, checked(name))

    def _target(self, name: str) -> str:
        """The path of an object that is to be written."""
        path = self._path(name)
        self._own(name.rpartition("/")[0])
        return path

    def _own(self, folder: str) -> None:
        """PermissionError for a folder that a symbolic link takes out of the store: what is written stays inside."""
        if not self._has_link(folder):
            return
        root = os.path.realpath(self.url)
        place = os.path.realpath(os.path.join(root, folder))
        if place != root and not place.startswith(root.rstrip("/") + "/"):
            raise PermissionError(f"{self.url}: the folder {folder} is a link that leads out of the store, to {place}; "
                                  "nothing is written there")

    def _has_link(self, folder: str) -> bool:
        """Whether a part of this folder's path below the store is a link, or can't be looked at. Asked for every object:
        resolving the whole path would cost more than creating a file."""
        path = self.url
        try:
            for part in folder.split("/") if folder else ():
                path = f"{path}/{part}"
                if stat.S_ISLNK(os.lstat(path).st_mode):
                    return True
        except OSError:
            return True
        return False

    def _folder(self, folder: str) -> str:
        return self._path(folder) if folder != "" else self.url

    def _in_folder(self, path: str, act: Callable[[], _T]) -> _T:
        try:
            return act()
        except FileNotFoundError:
            # A store that was copied by a tool that skips empty folders; its tmp and live hold nothing durable.
            if not os.path.isdir(self.url):
                raise
            os.makedirs(os.path.dirname(path), exist_ok=True)
            return act()


def _make(path: str) -> dict[str, None]:
    """Make a folder and its missing parents; the folders in which a name is new, outermost first."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    changed: dict[str, None] = {}
    for path in reversed(missing):
        with named(path):
            _make_one(path)
        changed[os.path.dirname(path)] = None
    return changed


def _make_one(path: str) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
