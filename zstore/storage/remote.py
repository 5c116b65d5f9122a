"""Any fsspec URL, for reading; and the one home of fsspec."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NoReturn, TypeAlias

from zstore._typing import Buffer
from zstore.errors import Conflict, MissingExtra
from zstore.storage.base import Draft, Handle, Kind, Lock, Names, checked, checked_folder

# scheme: (the package that serves it, our extra that brings it)
_EXTRAS = {
    "s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3"),
    "gs": ("gcsfs", "gcs"), "gcs": ("gcsfs", "gcs"),
    "abfs": ("adlfs", "azure"), "abfss": ("adlfs", "azure"), "az": ("adlfs", "azure"),
}
Entries: TypeAlias = list[tuple[str, str]]
_CONTAINERS = frozenset({"abfs", "abfss", "az", "wasb", "wasbs"})


def filesystem(url: str, options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path in it; no request is made.

    MissingExtra when the scheme's package is not installed, ValueError when nobody knows the scheme.
    """
    from fsspec.core import url_to_fs

    for link in url.split("::"):
        _require(link.split("://")[0])
    fs, path = url_to_fs(url, **dict(options or {}))
    return fs, path


def _require(scheme: str) -> None:
    # fsspec.registry, as an attribute, is a table of the same name; the module has to be imported from.
    from fsspec.registry import get_filesystem_class, known_implementations, registry

    if scheme not in known_implementations and scheme not in registry:
        raise ValueError(f"unknown URL scheme {scheme}://")
    try:
        get_filesystem_class(scheme)
    except ImportError as error:
        if scheme in _EXTRAS:
            package, extra = _EXTRAS[scheme]
            raise MissingExtra(f'{scheme}:// URLs need {package}: pip install "zstore[{extra}]"') from error
        package = known_implementations[scheme]["class"].split(".")[0]
        hint = f"the package {package}" if package != "fsspec" else "a package that is not installed"
        raise MissingExtra(f"{scheme}:// URLs need {hint} ({error})") from error


def printable(url: str) -> str:
    """The URL without user, password, query and fragment: what may stand in a message."""
    return "::".join(_without_credentials(link) for link in url.split("::"))


def _without_credentials(link: str) -> str:
    scheme, separator, rest = link.partition("://")
    if not separator:
        return link
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    user, at, machine = host.rpartition("@")
    # abfs://container@account names a container there, not a user.
    if at and (scheme not in _CONTAINERS or ":" in user):
        host = machine
    return f"{scheme}://{host}{slash}{path}".rstrip("/") if host or path else f"{scheme}://"


class RemoteHandle:
    """One object, read by ranges.

    fsspec has no common way to name a generation. A replace between two reads is noticed only when a read comes back
    with the wrong length (OSError); what is inside the bytes has its own checks, one floor up.
    """

    generation = ""

    def __init__(self, fs: Any, path: str, size: int) -> None:
        self._fs = fs
        self._path = path
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        """See ``Handle.read``; one request, none for nothing."""
        if offset < 0 or length < 0:
            raise ValueError(f"cannot read {length} bytes from offset {offset}")
        end = min(offset + length, self.size)
        if end <= offset:
            return b""
        data = bytes(self._fs.cat_file(self._path, start=offset, end=end))
        if len(data) != end - offset:
            raise OSError(f"{self._path} changed while it was read: {end - offset} bytes wanted, {len(data)} came")
        return data

    def fileno(self) -> None:
        """None: nothing to map."""

    def close(self) -> None:
        """Nothing is held."""


class PinnedHandle:
    """One object whose bytes are in memory."""

    generation = ""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self, offset: int, length: int) -> bytes:
        """See ``Handle.read``."""
        if offset < 0 or length < 0:
            raise ValueError(f"cannot read {length} bytes from offset {offset}")
        return self._data[offset:offset + length]

    def fileno(self) -> None:
        """None: nothing to map."""

    def close(self) -> None:
        """The bytes go with the handle."""


class RemoteStorage:
    """See ``Storage``: the reading half, of any URL that fsspec serves. Every writing method raises Conflict.

    Listings and sizes are asked for anew each time, never taken from fsspec's cache. Safe after fork and pickle.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self._address = url
        self._options = dict(options or {})
        self._process = os.getpid()
        self._filesystem, self._root = filesystem(url, self._options)
        self._root = self._root.rstrip("/")
        self.url = printable(url)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self._address, self._options))

    @property
    def _fs(self) -> Any:
        if self._process != os.getpid():
            # The loop that serves an asynchronous file system is a thread, and threads do not survive a fork.
            self._filesystem, _ = filesystem(self._address, self._options)
            self._process = os.getpid()
        return self._filesystem

    def read(self, name: str) -> bytes:
        """See ``Storage.read``; one request."""
        return bytes(self._fs.cat_file(self._path(name)))

    distant = True
    rewrites = False
    patience_s = 62.0

    def offers(self) -> dict[str, str]:
        """See ``Storage.offers``."""
        return {"create": "no", "rewrite": "no", "locks": "no", "mapping": "no"}

    def fetch(self, name: str) -> tuple[bytes, str]:
        """See ``Storage.fetch``."""
        return self.read(name), ""

    def read_ranges(self, wanted: Sequence[tuple[Handle, int, int]]) -> list[bytes]:
        """See ``Storage.read_ranges``."""
        return [handle.read(offset, length) for handle, offset, length in wanted]

    def open(self, name: str, end: int = 0) -> Handle:
        """See ``Storage.open``; not pinned, see ``RemoteHandle``, save where the server tells no size."""
        path = self._path(name)
        entry = self._info(path)
        if entry["type"] == "directory":
            raise FileNotFoundError(path)
        if entry.get("size") is None:
            return PinnedHandle(self.read(name))
        return RemoteHandle(self._fs, path, int(entry["size"]))

    def exists(self, name: str) -> bool:
        """See ``Storage.exists``."""
        try:
            return bool(self._info(self._path(name))["type"] != "directory")
        except FileNotFoundError:
            return False

    def list(self, folder: str) -> Names:
        """See ``Storage.list``."""
        return [name for name, kind in self._entries(folder) if kind != "directory"]

    def folders(self, folder: str) -> Names:
        """See ``Storage.folders``."""
        return [name for name, kind in self._entries(folder) if kind == "directory"]

    def kind(self) -> Kind:
        """See ``Storage.kind``; over plain http, which has no folders, do not ask."""
        try:
            entry = self._info(self._root)
        except FileNotFoundError:
            return "nothing"
        if entry["type"] != "directory":
            return "file"
        return "folder" if self._entries("") else "empty"

    def make_folders(self, folders: Iterable[str]) -> None:
        """Raises Conflict."""
        self._refuse()

    def draft(self, parts: Sequence[Buffer], tag: str, *, durable: bool = True) -> Draft:
        """Raises Conflict."""
        self._refuse()

    def replace(self, draft: Draft, name: str) -> None:
        """Raises Conflict."""
        self._refuse()

    def rewrite(self, draft: Draft, name: str, over: str | None) -> str:
        """Raises Conflict."""
        self._refuse()

    def create(self, draft: Draft, name: str) -> bool:
        """Raises Conflict."""
        self._refuse()

    def discard(self, draft: Draft) -> None:
        """Raises Conflict."""
        self._refuse()

    def sync(self, folders: Iterable[str]) -> None:
        """Raises Conflict."""
        self._refuse()

    def delete(self, name: str) -> None:
        """Raises Conflict."""
        self._refuse()

    def exclusive(self) -> AbstractContextManager[None]:
        """Raises Conflict."""
        self._refuse()

    def share_live(self, name: str) -> Lock:
        """Raises Conflict."""
        self._refuse()

    def try_exclusive_live(self, name: str) -> Lock | None:
        """Raises Conflict."""
        self._refuse()

    def is_held(self, name: str) -> bool:
        """Raises Conflict."""
        self._refuse()

    def writable(self, only_writer: bool = False) -> None:
        """Raises Conflict."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        scheme = self._address.split("://")[0]
        raise Conflict(
            f"writing to {scheme}:// needs conditional writes, which this release offers for local disks and "
            "memory://; write locally and copy the folder")

    def _path(self, name: str) -> str:
        return f"{self._root}/{checked(name)}"

    def _info(self, path: str) -> dict[str, Any]:
        self._fs.invalidate_cache(path)
        entry: dict[str, Any] = self._fs.info(path)
        return entry

    def _entries(self, folder: str) -> Entries:
        path = self._path(folder) if checked_folder(folder) else self._root
        self._fs.invalidate_cache(path)
        try:
            found = self._fs.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        # A listing may contain the folder itself: object stores keep a placeholder of that name.
        return sorted((_last(entry["name"]), entry["type"]) for entry in found
                      if entry["name"].strip("/") != path.strip("/"))


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]
