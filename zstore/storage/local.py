"""A folder on a local disk.

A name appears by rename or link only, from a temporary file that its own descriptor has made durable, so a reader
never sees half an object and a crash leaves at most files in ``_zstore/tmp``.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TypeVar

from zstore._typing import Buffer
from zstore.errors import Conflict, Corrupt
from zstore.storage.base import MOST_READ, TMP, Draft, Growing, Handle, Kind, Names, checked_tag
from zstore.storage.descriptors import flush, flush_folder, named, read_at, write_all
from zstore.storage.growing import GrowingFile, LocalDraft, remove
from zstore.storage.local_life import LocalLife
from zstore.storage.mounts import LACKING

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_ABSENT = (FileNotFoundError, NotADirectoryError)
_T = TypeVar("_T")


class LocalHandle:
    """An open file. Reads may run in several threads; closing while one reads is the caller's mistake."""

    generation = ""         # a descriptor pins its file

    def __init__(self, path: str) -> None:
        self._descriptor = -1
        # Not to wait for whoever writes to a pipe that a stranger put here.
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        self._path = path
        status = os.fstat(self._descriptor)
        self.size = status.st_size
        if stat.S_ISDIR(status.st_mode):
            self.close()
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise Corrupt(path, "this is a device or a pipe, not a file")

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
            with suppress(OSError):     # only read from: it is closed whatever the system says of it
                os.close(descriptor)

    def __del__(self) -> None:
        self.close()


class LocalStorage(LocalLife):
    """See ``Storage``. ``url`` is the absolute path; symbolic links in it are kept."""

    distant = False
    rewrites = True             # claims, locks and the fence keep others from our shards
    _alone = False              # the caller says that nobody else writes

    def __repr__(self) -> str:
        return f"LocalStorage({self.url!r})"

    def read(self, name: str) -> bytes:
        """See ``Storage.read``."""
        handle = self.open(name)
        try:
            if handle.size > MOST_READ:
                raise Corrupt(name, "the document is too large", expected=f"<= {MOST_READ} bytes", actual=handle.size)
            return handle.read(0, handle.size)
        finally:
            handle.close()

    def offers(self) -> dict[str, str]:
        """See ``Storage.offers``."""
        place = self._where()
        create = "atomic (link)" if place.links else "not atomic (no hard links)"
        return {"file system": place.kind or "unknown", "create": create,
                "rewrite": "atomic (rename)", "locks": "flock" if self._leases() is None else "signs of life, every 20 s",
                "mapping": "yes" if place.maps else "no"}

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

    def draft(self, parts: Sequence[Buffer], tag: str, *, durable: bool = True) -> Draft:
        """See ``Storage.draft``; OSError with the filename on a full or failing disk."""
        path, descriptor = self._begin(tag)
        try:
            with named(path):
                try:
                    write_all(descriptor, parts)
                    if durable:
                        flush(descriptor)
                finally:
                    os.close(descriptor)
        except BaseException:
            remove(path)
            raise
        return LocalDraft(path)

    def begin(self, tag: str) -> Growing:
        """See ``Storage.begin``."""
        return GrowingFile(*self._begin(tag))

    def _begin(self, tag: str) -> tuple[str, int]:
        path = self._target(f"{TMP}/{checked_tag(tag)}-{uuid.uuid4().hex}")
        with named(path):
            return path, self._in_folder(path, lambda: os.open(path, _NEW, 0o666))

    def replace(self, draft: Draft, name: str, *, once: bool = False) -> None:
        """See ``Storage.replace``: one rename."""
        source = _path_of(draft)
        try:
            target = self._target(name)
            with named(target):
                os.replace(source, target)
        except BaseException:
            remove(source)
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
            target = self._target(name)
            with named(target):
                os.link(source, target)
        except FileExistsError:
            return False
        except OSError as error:
            if not self._alone or error.errno not in LACKING or self._where().links:
                raise
            return self._create_alone(source, target)
        finally:
            remove(source)
        return True

    def _create_alone(self, source: str, target: str) -> bool:
        # No hard links here: look, then rename. The caller's word is that nobody comes between.
        if os.path.lexists(target):
            return False
        with named(target):
            os.replace(source, target)
        return True

    def discard(self, draft: Draft) -> None:
        """See ``Storage.discard``."""
        remove(_path_of(draft))

    def sync(self, folders: Iterable[str]) -> None:
        """See ``Storage.sync``: fsync of each folder."""
        for folder in dict.fromkeys(folders):
            flush_folder(self._folder(folder))

    def delete(self, name: str) -> None:
        """See ``Storage.delete``."""
        with suppress(*_ABSENT):
            os.unlink(self._target(name))

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
        self._alone = only_writer
        if not only_writer and not self._where().links:
            kind = self._where().kind or "unknown"
            raise Conflict(f"{self.url} lies on a file system ({kind}) without hard links, where two writers could create one "
                           "name; pass only_writer=True if nobody else writes there, or choose another disk")

    def kind(self) -> Kind:
        """See ``Storage.kind``."""
        try:
            with os.scandir(self.url) as entries:
                return "empty" if next(entries, None) is None else "folder"
        except FileNotFoundError:
            return "nothing"
        except NotADirectoryError:
            return "file" if os.path.lexists(self.url) else "nothing"

    def _entries(self, folder: str, wanted: Callable[[os.DirEntry[str]], bool]) -> Names:
        try:
            with os.scandir(self._folder(folder)) as entries:
                return sorted(entry.name for entry in entries if wanted(entry))
        except _ABSENT:
            return []


def _path_of(draft: Draft) -> str:
    if not isinstance(draft, LocalDraft):
        raise TypeError(f"not a draft of this storage: {draft!r}")
    return draft.path

