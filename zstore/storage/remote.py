"""Any fsspec URL: objects on a service that answers over a network, conditional where the service can.

Nothing is written under a temporary name: an object appears whole, with one request, and its name is durable with the
answer. ``s3`` and ``generic`` are the services, ``conditional`` writes through lost replies, ``leases`` are signs of life.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any

from zstore._typing import Buffer
from zstore.errors import Conflict
from zstore.storage import conditional, flocks, leases
from zstore.storage.backend import Backend, Doubtful, Entries, NoSize
from zstore.storage.base import TMP, Draft, Growing, Handle, Kind, Lock, Names, checked, checked_folder, checked_tag
from zstore.storage.drafts import BytesDraft, own, spent
from zstore.storage.exiting import keep_working
from zstore.storage.filesystems import filesystem, printable, scheme_of
from zstore.storage.fresh import Fresh
from zstore.storage.generic import GenericBackend
from zstore.storage.handles import PinnedHandle, RemoteHandle, read_all
from zstore.storage.object_signs import ObjectSigns
from zstore.storage.patience import patiently
from zstore.storage.s3 import S3Backend, s3_options
from zstore.storage.secrets import Ticket, redeem, ticket

__all__ = ["PinnedHandle", "RemoteStorage", "filesystem", "printable"]

# Their creation is atomic by their own documents; a probe is a second wall, for what only speaks their protocol.
_S3 = frozenset({"s3", "s3a"})
_ATOMIC = frozenset({"gs", "gcs", "abfs", "abfss", "az"})


class RemoteStorage:
    """See ``Storage``. Listings and sizes are asked for anew each time, never taken from fsspec's cache. Safe after fork
    and pickle.

    Every call tries again through passing failures and ends within about a minute; TimeoutError then names the object.
    """

    distant = True

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self._address = url
        self._options = dict(options or {})
        self._process = os.getpid()
        self._connect()
        self.url = printable(url)
        self._create_holds: bool | None = None          # None: not probed
        self._rewrite_holds: bool | None = None
        self._tried: dict[str, dict[conditional.Likeness, None]] = {}
        self._fresh = Fresh()
        self._leases = leases.Leases(ObjectSigns(lambda: self._backend))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_restored, (type(self), ticket(self._address, self._options)))

    def _connect(self) -> None:
        scheme = scheme_of(self._address)
        plain = "::" not in self._address
        options = s3_options(self._options) if scheme in _S3 and plain else self._options
        self._filesystem, root = filesystem(self._address, options)
        keep_working(self._filesystem)
        self._root = root.rstrip("/")
        shown = printable(self._address)
        if scheme in _S3 and plain:
            self._service: Backend = S3Backend(self._filesystem, self._root, shown)
        else:
            self._service = GenericBackend(self._filesystem, self._root, shown, atomic=plain and scheme in _ATOMIC)

    @property
    def _backend(self) -> Backend:
        self._after_fork()
        return self._service

    @property
    def _fs(self) -> Any:
        self._after_fork()
        return self._filesystem

    def _after_fork(self) -> None:
        if self._process != os.getpid():
            # The loop that serves an asynchronous file system is a thread, and threads do not survive a fork.
            self._connect()
            self._process = os.getpid()

    @property
    def rewrites(self) -> bool:
        """See ``Storage.rewrites``; the probe of ``writable`` may find that a service is not what its protocol says."""
        return self._service.conditional and self._rewrite_holds is not False

    @property
    def patience_s(self) -> float:
        """See ``Storage.patience_s``."""
        return leases.STALE_S + 2.0

    def offers(self) -> dict[str, str]:
        """See ``Storage.offers``; asks nothing."""
        atomic = self._service.atomic and self._create_holds is not False
        return {"create": "atomic (a condition of the request)" if atomic else "not atomic: one writer only",
                "rewrite": "conditional (If-Match)" if self.rewrites else "no: each object is written once",
                "locks": f"signs of life, stale after {leases.STALE_S:g} s" if self._service.dated else "no: one writer only",
                "mapping": "no"}

    def read(self, name: str) -> bytes:
        """See ``Storage.read``; one request."""
        return self.fetch(name)[0]

    def fetch(self, name: str) -> tuple[bytes, str]:
        """See ``Storage.fetch``; one request."""
        checked(name)
        got = patiently(lambda: self._backend.get(name))
        return got.data, got.generation

    def open(self, name: str, end: int = 0) -> Handle:
        """See ``Storage.open``; one request on S3, none for what was just written for good. Not pinned, see ``RemoteHandle``,
        save where the service tells no size."""
        if (data := self._fresh.get(checked(name))) is not None:
            return PinnedHandle(data)
        try:
            if end > 0:
                got = patiently(lambda: self._backend.get(name, -end))
                return self._handle(name, got.size, got.generation, got.data)
            size, generation = patiently(lambda: self._backend.head(name))
            return self._handle(name, size, generation, b"")
        except NoSize:
            return PinnedHandle(*self.fetch(name))

    def _handle(self, name: str, size: int, generation: str, end: bytes) -> RemoteHandle:
        return RemoteHandle(lambda: self._backend, name, self._shown(name), size, generation, end)

    def read_ranges(self, wanted: Sequence[tuple[Handle, int, int]]) -> list[bytes]:
        """See ``Storage.read_ranges``; neighbours share a request, the requests run at once."""
        return read_all(wanted)

    def exists(self, name: str) -> bool:
        """See ``Storage.exists``; one request, no listing."""
        checked(name)
        try:
            patiently(lambda: self._backend.head(name))
        except NoSize:
            return True
        except FileNotFoundError:
            return False
        return True

    def list(self, folder: str) -> Names:
        """See ``Storage.list``."""
        return sorted(entry.name for entry in self._entries(folder) if not entry.is_folder)

    def folders(self, folder: str) -> Names:
        """See ``Storage.folders``."""
        return sorted(entry.name for entry in self._entries(folder) if entry.is_folder)

    def kind(self) -> Kind:
        """See ``Storage.kind``."""
        return patiently(lambda: self._backend.kind())

    def make_folders(self, folders: Iterable[str]) -> None:
        """See ``Storage.make_folders``; object stores have none, and only the names are checked."""
        for folder in [checked_folder(folder) for folder in folders]:
            patiently(partial(self._backend.make_folder, folder))

    def draft(self, parts: Sequence[Buffer], tag: str, *, durable: bool = True) -> Draft:
        """See ``Storage.draft``; one copy of the parts, in memory."""
        checked_tag(tag)
        return BytesDraft(parts)

    def begin(self, tag: str) -> Growing | None:
        """See ``Storage.begin``."""
        return None

    def replace(self, draft: Draft, name: str, *, once: bool = False) -> None:
        """See ``Storage.replace``; without a condition."""
        data = spent(draft)
        self._fresh.drop(checked(name))
        patiently(lambda: self._backend.put(name, data))
        if once:
            self._fresh.put(name, data)

    def rewrite(self, draft: Draft, name: str, over: str | None) -> str:
        """See ``Storage.rewrite``; where it can't be conditional, only over nothing is. TimeoutError when the service did
        not say: a later call, with the same or more rows, goes on from whatever is there of this one."""
        data = spent(draft)
        self._fresh.drop(checked(name))
        if over is not None and not self.rewrites:
            return patiently(lambda: self._backend.put(name, data))
        tried = self._tried.setdefault(name, {})
        try:
            return conditional.rewrite(self._backend, name, data, over, self._shown(name), tried)
        finally:
            if not tried:
                self._tried.pop(name, None)

    def create(self, draft: Draft, name: str) -> bool:
        """See ``Storage.create``."""
        data = spent(draft)
        checked(name)
        return conditional.create(self._backend, name, data, self._shown(name))

    def discard(self, draft: Draft) -> None:
        """See ``Storage.discard``."""
        own(draft).data = None

    def sync(self, folders: Iterable[str]) -> None:
        """Checks the names; what was answered is durable."""
        for folder in folders:
            checked_folder(folder)

    def delete(self, name: str) -> None:
        """See ``Storage.delete``."""
        self._fresh.drop(checked(name))
        patiently(lambda: self._backend.delete(name))

    def writable(self, only_writer: bool = False) -> None:
        """See ``Storage.writable``; once per storage, with an object that it writes and removes."""
        if self._create_holds is None:
            self._create_holds, self._rewrite_holds = patiently(self._probe)
        if not self._create_holds:      # asked once more: somebody may have collected the object between two requests
            self._create_holds, self._rewrite_holds = patiently(self._probe)
        if not self._create_holds and not only_writer:
            raise Conflict(
                f"{self.url} can't be written by several writers: {scheme_of(self._address)}:// has no atomic creation that "
                "zstore knows of; pass only_writer=True if nobody else writes it, or write locally and copy the folder")

    def _probe(self) -> tuple[bool, bool]:
        name = f"{TMP}/probe-{uuid.uuid4().hex}"
        try:
            creates, rewrites = conditional.probe(self._backend, name)
        except OSError as error:
            if isinstance(error, (Doubtful, FileNotFoundError, PermissionError)):
                raise
            raise PermissionError(f"cannot write {self.url}: {error}") from None
        finally:
            with suppress(OSError):
                self._backend.delete(name)
        return creates and self._backend.atomic, rewrites

    def exclusive(self) -> AbstractContextManager[None]:
        """One lock among the threads of this process; other processes are kept off by the conditions of ``rewrite``."""
        return self._exclusive()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with flocks.door(self.url):
            yield

    def share_live(self, name: str) -> Lock:
        """See ``Storage.share_live``; a sign of life, renewed until it is released. It waits for nobody."""
        checked(name)
        return self._leases.share(name) if self._service.dated else leases.NoLease()

    def try_exclusive_live(self, name: str) -> Lock | None:
        """See ``Storage.try_exclusive_live``."""
        checked(name)
        return self._leases.try_exclusive(name) if self._service.dated else leases.NoLease()

    def is_held(self, name: str) -> bool:
        """See ``Storage.is_held``: a sign of life is fresh."""
        checked(name)
        return self._service.dated and self._leases.is_held(name)

    def _shown(self, name: str) -> str:
        return f"{self.url}/{name}"

    def _path(self, name: str) -> str:
        return f"{self._root}/{checked(name)}"

    def _entries(self, folder: str) -> Entries:
        checked_folder(folder)
        return [entry for entry in patiently(lambda: self._backend.list(folder)) if _is_name(entry.name)]


def _is_name(name: str) -> bool:
    """A name that a store can have: a key with an empty or a dotted component is nobody's."""
    try:
        return checked(name) == name and "/" not in name
    except ValueError:
        return False


def _restored(kind: type[RemoteStorage], held: Ticket) -> RemoteStorage:
    return kind(*redeem(held))
