"""Any other file system of fsspec, by the verbs that all of them have. None is asked for generations.

Google's and Azure's refuse a second creation of one name (``mode="create"`` is a conditional request there). Elsewhere
creation is a look and then a write, good for one writer; and a write may be seen half done, so it goes to a temporary
name first.
"""

from __future__ import annotations

import errno
import re
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

from zstore.storage.backend import Doubtful, Entries, Entry, Got, NoSize, Unmet
from zstore.storage.base import TMP, Kind
from zstore.storage.filesystems import without_secrets

_DATES = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")
_SETTLED = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
_PASSING = re.compile("Timeout|Connect|Transport|ServiceRequest|Payload|Incomplete")
_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EINVAL, errno.ENAMETOOLONG, errno.EFBIG, errno.ENOSYS}
T = TypeVar("T")


class GenericBackend:
    """See ``Backend``. ``atomic`` says that creation is known to be atomic here."""

    conditional = False

    def __init__(self, fs: Any, root: str, shown: str, atomic: bool) -> None:
        self._fs, self._root, self._shown = fs, root.rstrip("/"), shown
        self.atomic = self.dated = atomic

    def get(self, name: str, start: int = 0, stop: int | None = None, *, generation: str = "") -> Got:
        """See ``Backend.get``; for the end of an object one more request, for its size."""
        if start == 0 and stop is None:
            data = bytes(self._do(name, lambda: self._fs.cat_file(self._path(name))))
            return Got(data, len(data), "")
        size = -1
        if stop is None:
            size, _ = self.head(name)
            start, stop = max(size + start, 0) if start < 0 else start, size
        data = b""
        if stop > start:
            data = bytes(self._do(name, lambda: self._fs.cat_file(self._path(name), start=start, end=stop)))
        if len(data) != stop - start:
            raise OSError(f"{self._shown}/{name} changed while it was read: {stop - start} bytes wanted, {len(data)} came")
        return Got(data, size, "")

    def head(self, name: str) -> tuple[int, str]:
        """See ``Backend.head``."""
        entry = self._info(name)
        if entry["type"] == "directory":
            raise FileNotFoundError(errno.ENOENT, "not an object", f"{self._shown}/{name}")
        if entry.get("size") is None:
            raise NoSize(f"{self._shown}/{name}: its size is not known")
        return int(entry["size"]), ""

    def put(self, name: str, data: bytes, *, absent: bool = False, over: str | None = None) -> str:
        """See ``Backend.put``; ``over`` is not looked at."""
        path = self._path(name)
        if self.atomic:
            self._do(name, lambda: self._fs.pipe_file(path, data, **({"mode": "create"} if absent else {})))
        else:
            if absent and self._exists(name):
                raise Unmet(f"{self._shown}/{name} is there")
            self._do(name, lambda: self._in_folder(name, lambda: self._place(path, data)))
        return ""

    def delete(self, name: str) -> None:
        """See ``Backend.delete``."""
        with suppress(FileNotFoundError):
            self._do(name, lambda: self._fs.rm_file(self._path(name)))

    def list(self, folder: str) -> Entries:
        """See ``Backend.list``; never from fsspec's cache."""
        path = self._path(folder)
        try:
            found = self._do(folder, lambda: self._fresh(path).ls(path, detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return []
        # A listing may contain the folder itself: object stores keep a placeholder of that name.
        return [Entry(_last(entry["name"]), entry["type"] == "directory", _date(entry)) for entry in found
                if entry["name"].strip("/") != path.strip("/")]

    def make_folder(self, folder: str) -> None:
        """See ``Backend.make_folder``; the object stores that we know have no folders, and might make a bucket."""
        if not self.atomic:
            self._do(folder, lambda: self._fs.makedirs(self._path(folder), exist_ok=True))

    def kind(self) -> Kind:
        """See ``Backend.kind``; over plain http, which has no folders, do not ask."""
        try:
            entry = self._info("")
        except FileNotFoundError:
            return "nothing"
        if entry["type"] != "directory":
            return "file"
        return "folder" if self.list("") else "empty"

    def now(self) -> float:
        """See ``Backend.now``: the date of an object that is written for it."""
        name = f"{TMP}/clock-{uuid.uuid4().hex}"
        self.put(name, b"")
        try:
            return _date(self._info(name))
        finally:
            with suppress(OSError):
                self.delete(name)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _fresh(self, path: str) -> Any:
        self._fs.invalidate_cache(path)
        return self._fs

    def _info(self, name: str) -> dict[str, Any]:
        path = self._path(name)
        entry: dict[str, Any] = self._do(name, lambda: self._fresh(path).info(path))
        return entry

    def _exists(self, name: str) -> bool:
        try:
            self._info(name)
        except FileNotFoundError:
            return False
        return True

    def _in_folder(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except FileNotFoundError:
            self.make_folder(name.rpartition("/")[0])
            self.make_folder(TMP)
            act()

    def _place(self, path: str, data: bytes) -> None:
        temporary = self._path(f"{TMP}/put-{uuid.uuid4().hex}")
        self._fs.pipe_file(temporary, data)
        try:
            self._fs.mv(temporary, path)
        except NotImplementedError:
            self._fs.pipe_file(path, data)
            self._fs.rm_file(temporary)

    def _do(self, name: str, act: Callable[[], T]) -> T:
        try:
            return act()
        except Exception as error:
            raise _told(error, f"{self._shown}/{name}" if name else self._shown) from None


def _told(error: Exception, shown: str) -> Exception:
    """What a failure of a client means; clients that raise no OSError carry the status of the answer."""
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception) and (
            not isinstance(error.__cause__, LookupError)):
        # Over http fsspec calls every failure "not found", and says in the cause what it was.
        return _told(error.__cause__, shown)
    if isinstance(error, FileExistsError):
        return Unmet(f"{shown} is there")
    if isinstance(error, _SETTLED) or (isinstance(error, OSError) and error.errno in _ERRNOS):
        return error
    text = without_secrets(f"{shown}: {type(error).__name__}: {error}")
    if isinstance(error, (NotImplementedError, TypeError, ValueError)):
        return OSError(errno.ENOSYS, f"not possible on this file system: {text}")
    told = (getattr(error, key, None) for key in ("status", "status_code", "code"))
    status = next((number for number in told if isinstance(number, int)), 0)
    if status == 412:
        return Unmet(text)
    if 400 <= status < 500 and status not in (408, 409, 429):
        return FileNotFoundError(text) if status == 404 else PermissionError(text) if status in (401, 403) else OSError(text)
    if status or isinstance(error, OSError) or any(_PASSING.search(kind.__name__) for kind in type(error).__mro__):
        return Doubtful(text)
    return OSError(text)


def _date(entry: dict[str, Any]) -> float:
    value = next((entry[key] for key in _DATES if entry.get(key) is not None), 0.0)
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.timestamp() if isinstance(value, datetime) else float(value)


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]
