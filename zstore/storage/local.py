"""A folder on a local disk.

A name appears by rename or link only, from a temporary file that its own descriptor has made durable, so a reader
never sees half an object and a crash leaves at most files in ``_zstore/tmp``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TypeVar

from zstore._typing import Buffer
from zstore.storage import flocks
from zstore.storage.base import TMP, Draft, Handle, Kind, Lock, Names, checked, checked_folder, checked_tag
from zstore.storage.descriptors import flush, flush_folder, named, read_at, write_all

_ABSENT = (FileNotFoundError, NotADirectoryError)
_T = TypeVar("_T")


class LocalDraft(Draft):
    """A temporary file."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path


class LocalHandle:
    """An open file. Reads may run in several threads; closing while one reads is the caller's mistake."""

    generation = ""         # a descriptor pins its file

    def __init__(self, path: str) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._path = path
        status = os.fstat(self._descriptor)
        self.size = status.st_size
        if stat.S_ISDIR(status.st_mode):
            self.close()
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)

    def read(self, offset: int, length: int) -> bytes:
        """See ``Handle.read``; OSError with the filename when the disk fails."""
        if offset < 0 or length < 0:
            raise ValueError(f"cannot read {length} bytes from offset {offset}")
        descriptor = self.fileno()
        with named(self._path):
            return read_at(descriptor, offset, min(length, max(self.size - offset, 0)))

    def fileno(self) -> int:
        """The descriptor; ValueError once closed, for its number may be another file's by then."""
        if self._descriptor < 0:
            raise ValueError(f"{self._path} is closed")
        return self._descriptor

    def close(self) -> None:
        """Close the descriptor; mappings made from it stay valid."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


class LocalStorage:
    """See ``Storage``. ``url`` is the absolute path; symbolic links in it are kept."""

    distant = False
    rewrites = True             # claims, locks and the fence keep others from our shards
    patience_s = 2.0

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.url = os.path.abspath(os.fspath(path))

    def __repr__(self) -> str:
        return f"LocalStorage({self.url!r})"

    def read(self, name: str) -> bytes:
        """See ``Storage.read``."""
        handle = self.open(name)
        try:
            return handle.read(0, handle.size)
        finally:
            handle.close()

    def offers(self) -> dict[str, str]:
        """See ``Storage.offers``."""
        return {"create": "atomic (link)", "rewrite": "atomic (rename)", "locks": "flock", "mapping": "yes"}

    def fetch(self, name: str) -> tuple[bytes, str]:
        """See ``Storage.fetch``."""
        return self.read(name), ""

    def read_ranges(self, wanted: Sequence[tuple[Handle, int, int]]) -> list[bytes]:
        """See ``Storage.read_ranges``; one after another."""
        return [handle.read(offset, length) for handle, offset, length in wanted]

    def open(self, name: str, end: int = 0) -> Handle:
        """See ``Storage.open``; pinned, because names are only ever given to new files."""
        path = self._path(name)
        try:
            return LocalHandle(path)
        except NotADirectoryError as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error

    def exists(self, name: str) -> bool:
        """See ``Storage.exists``."""
        try:
            return stat.S_ISREG(os.stat(self._path(name)).st_mode)
        except _ABSENT:
            return False

    def list(self, folder: str) -> Names:
        """See ``Storage.list``."""
        return self._entries(folder, lambda entry: entry.is_file())

    def folders(self, folder: str) -> Names:
        """See ``Storage.folders``."""
        return self._entries(folder, lambda entry: entry.is_dir())

    def make_folders(self, folders: Iterable[str]) -> None:
        """See ``Storage.make_folders``; PermissionError where that is not allowed.

        Folders inside the store are synced even if they were there: another process may have made them a moment ago
        and not have synced them yet, and our commit must not hang on its fsync.
        """
        inside = [checked_folder(folder) for folder in folders]
        stale = _make(self.url)
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

    def draft(self, parts: Sequence[Buffer], tag: str, *, durable: bool = True) -> Draft:
        """See ``Storage.draft``; OSError with the filename on a full or failing disk."""
        path = os.path.join(self.url, TMP, f"{checked_tag(tag)}-{uuid.uuid4().hex}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            with named(path):
                descriptor = self._in_folder(path, lambda: os.open(path, flags, 0o666))
                try:
                    write_all(descriptor, parts)
                    if durable:
                        flush(descriptor)
                finally:
                    os.close(descriptor)
        except BaseException:
            _remove(path)
            raise
        return LocalDraft(path)

    def replace(self, draft: Draft, name: str) -> None:
        """See ``Storage.replace``: one rename."""
        source = _path_of(draft)
        try:
            target = self._path(name)
            with named(target):
                os.replace(source, target)
        except BaseException:
            _remove(source)
            raise

    def rewrite(self, draft: Draft, name: str, over: str | None) -> str:
        """See ``Storage.rewrite``."""
        self.replace(draft, name)
        return ""

    def create(self, draft: Draft, name: str) -> bool:
        """See ``Storage.create``: one link. OSError where the file system has no hard links.

        Over NFS a lost reply can make our own success look taken; read the object to know.
        """
        source = _path_of(draft)
        try:
            target = self._path(name)
            with named(target):
                os.link(source, target)
        except FileExistsError:
            return False
        finally:
            _remove(source)
        return True

    def discard(self, draft: Draft) -> None:
        """See ``Storage.discard``."""
        _remove(_path_of(draft))

    def sync(self, folders: Iterable[str]) -> None:
        """See ``Storage.sync``: fsync of each folder."""
        for folder in dict.fromkeys(folders):
            flush_folder(self._folder(folder))

    def delete(self, name: str) -> None:
        """See ``Storage.delete``."""
        with suppress(*_ABSENT):
            os.unlink(self._path(name))

    def exclusive(self) -> AbstractContextManager[None]:
        """See ``Storage.exclusive``: flock on ``_zstore/tmp`` itself, so the lock leaves no file behind."""
        return self._exclusive()

    def share_live(self, name: str) -> Lock:
        """See ``Storage.share_live``."""
        lock = self._flock(self._path(name), os.O_CREAT | os.O_RDWR, fcntl.LOCK_SH)
        assert lock is not None
        return lock

    def try_exclusive_live(self, name: str) -> Lock | None:
        """See ``Storage.try_exclusive_live``."""
        return self._flock(self._path(name), os.O_CREAT | os.O_RDWR, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def is_held(self, name: str) -> bool:
        """See ``Storage.is_held``; asks the lock."""
        if not self.exists(name):
            return False
        lock = self.try_exclusive_live(name)
        if lock is None:
            return True
        lock.release()
        return False

    def writable(self, only_writer: bool = False) -> None:
        """See ``Storage.writable``; asks the nearest folder there is, NotADirectoryError when that is a file."""
        place = self.url
        while not os.path.lexists(place) and place != os.path.dirname(place):
            place = os.path.dirname(place)
        if os.path.exists(place) and not os.path.isdir(place):
            raise NotADirectoryError(f"cannot write {self.url}: {place} is a file")
        effective = os.access in os.supports_effective_ids
        if not os.access(place, os.W_OK | os.X_OK, effective_ids=effective):
            raise PermissionError(f"cannot write {self.url}: the folder {place} is not writable for this user")

    def kind(self) -> Kind:
        """See ``Storage.kind``."""
        try:
            with os.scandir(self.url) as entries:
                return "empty" if next(entries, None) is None else "folder"
        except FileNotFoundError:
            return "nothing"
        except NotADirectoryError:
            return "file" if os.path.lexists(self.url) else "nothing"

    def _path(self, name: str) -> str:
        return os.path.join(self.url, checked(name))

    def _folder(self, folder: str) -> str:
        return self._path(folder) if folder != "" else self.url

    def _entries(self, folder: str, wanted: Callable[[os.DirEntry[str]], bool]) -> Names:
        try:
            with os.scandir(self._folder(folder)) as entries:
                return sorted(entry.name for entry in entries if wanted(entry))
        except _ABSENT:
            return []

    def _in_folder(self, path: str, act: Callable[[], _T]) -> _T:
        try:
            return act()
        except FileNotFoundError:
            # A store that was copied by a tool that skips empty folders; its tmp and live hold nothing durable.
            if not os.path.isdir(self.url):
                raise
            os.makedirs(os.path.dirname(path), exist_ok=True)
            return act()

    def _flock(self, path: str, flags: int, operation: int) -> flocks.FileLock | None:
        with named(path):
            return self._in_folder(path, lambda: flocks.take(path, flags, operation))

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        path = os.path.join(self.url, TMP)
        with flocks.door(path):
            if not os.path.isdir(path):
                self.make_folders([TMP])
            lock = self._flock(path, os.O_RDONLY | os.O_DIRECTORY, fcntl.LOCK_EX)
            assert lock is not None
            try:
                yield
            finally:
                lock.release()


def _path_of(draft: Draft) -> str:
    if not isinstance(draft, LocalDraft):
        raise TypeError(f"not a draft of this storage: {draft!r}")
    return draft.path


def _remove(path: str) -> None:
    # A temporary file that stays is litter for gc; it must not hide the error, or the success, that we are here for.
    with suppress(OSError):
        os.unlink(path)


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
