"""``Reader``: a store opened at one version."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from zstore.cache import Cache, process_cache
from zstore.commits.history import Commit
from zstore.commits.log import Log
from zstore.commits.sessions import Sessions
from zstore.commits.whole import check_whole
from zstore.errors import Conflict, NotFound, StoreNotFound
from zstore.format.record import Record
from zstore.format.schema import EPOCH, IDS
from zstore.index import KeyIndex
from zstore.mapping import Column
from zstore.rows import Rows
from zstore.storage import open_storage
from zstore.storage.chunk_cache import ChunkCache
from zstore.storage.secrets import Ticket, advice, is_foreign, redeem, ticket
from zstore.view import Snapshot, View


class Reader(View):
    """The view of all rows of one version: head, or ``version``, or the one named by ``tag``.

    It stays at its version until ``refresh``. Safe among threads; may be used in forked children; pickles as its URL,
    version and options, without credentials: in another process it opens with those of its
    environment. Opening reads the version's record and schema, and no rows.

    ``cache_bytes`` bounds the decoded chunks of this reader alone (default: one bound for all readers of the process, a
    quarter of the available memory). ``cache_dir`` is a local folder in which what a remote store sent is kept, as it is
    stored, also for other processes and the next run: at most 10 GiB or a quarter of what the disk can give, what was used
    longest ago goes first; it does nothing for a local store. OSError when it can't be written now; later its loss costs
    only speed. ``verify``
    checks the checksums of all raw shards now. Raises StoreNotFound, NotFound, FormatError, Corrupt.
    """

    def __init__(self, url: str | os.PathLike[str], *, version: int | None = None, tag: str | None = None,
                 cache_dir: str | os.PathLike[str] | None = None, cache_bytes: int | None = None, verify: bool = False,
                 storage_options: Mapping[str, Any] | None = None) -> None:
        if version is not None and tag is not None:
            raise ValueError(f"give version={version} or tag={tag!r}, not both")
        if version is not None and (isinstance(version, bool) or not hasattr(version, "__index__") or version < 0):
            raise ValueError(f"version={version!r} is not a version: versions are counted from 0")
        if cache_bytes is not None and (not isinstance(cache_bytes, int) or cache_bytes < 0):
            raise ValueError(f"cache_bytes must be a number of bytes, 0 or more, not {cache_bytes!r}")
        self._storage = open_storage(url, storage_options)
        self._log = Log(self._storage)
        self._cache = process_cache() if cache_bytes is None else Cache(cache_bytes)
        self._kept = None
        if cache_dir is not None and self._storage.distant:
            self._kept = ChunkCache(cache_dir, self._storage.url)
            cache_dir = self._kept.folder           # a pickled reader may wake up elsewhere
        self._options = {"cache_dir": None if cache_dir is None else os.fspath(cache_dir), "cache_bytes": cache_bytes}
        # What a pickle carries. A local path, made absolute, has nothing to hide.
        self._ticket = (ticket(str(url), storage_options) if self._storage.distant or storage_options
                        else Ticket(self._storage.url, None, "", False))
        self._columns: dict[str, Column] = {}
        self._sessions: Sessions | None = None
        head = self._log.head()
        check_whole(self._log, head)
        if tag is not None:
            version = self._log.tag(tag)
        record = head if version is None or version == head.version else self._log.read(int(version))
        snapshot = self._opened(record, None)
        super().__init__(snapshot, Rows(record.extents))
        if verify:
            for field in snapshot.schema.fields.values():
                if snapshot.schema.chunk_codec(field).fixed:
                    snapshot.columns[field.name].verify()

    @property
    def version(self) -> int:
        """The version's number."""
        return self._now()[0].record.version

    @property
    def history(self) -> list[Commit]:
        """The commits up to this version, oldest first; reads each record."""
        version = self.version
        return [Commit.of(record) for record in self._log.history() if record.version <= version]

    @property
    def attrs(self) -> dict[str, Any]:
        """The store's user attributes, a copy."""
        return dict(self._now()[0].schema.attrs)

    def refresh(self) -> bool:
        """Move to head; True when that is another version. Arrays and views made before stay as they are.

        Conflict when the store at the URL is not the one that was opened."""
        snapshot = self._now()[0]
        old = snapshot.record
        try:
            again: Record | None = self._log.read(old.version)
        except (NotFound, StoreNotFound):
            again = None
        if again is None or again.commit_id != old.commit_id:
            raise Conflict(f"the store at {snapshot.url} was replaced: its version {old.version} is not the one that "
                           "was opened; open a new Reader")
        head = self._log.head()
        if head.version == old.version:
            return False
        fresh = self._opened(head, snapshot.index)
        self._state = (fresh, Rows(head.extents), {})
        return True

    def close(self) -> None:
        """Let go of the store. Arrays and views that were given out stay valid; this reader raises ValueError."""
        self._state = None
        self._columns = {}

    def __enter__(self) -> Reader:
        self._now()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopened, self._now()[0].arguments)

    def _opened(self, record: Record, previous: KeyIndex | None) -> Snapshot:
        """The version with its columns; those of fields that were there before go on, with all they hold."""
        schema = self._log.schema_of(record)
        if self._sessions is None:
            self._sessions = Sessions(self._storage, record)
        known = self._sessions.has
        kept = {field.path: self._columns.get(field.path)
                or Column(self._storage, schema, field, self._cache, self._kept, known) for field in schema.fields.values()}
        for column in kept.values():
            column.cover(record.extents)
        self._columns = {**self._columns, **kept}
        columns = {name: kept[field.path] for name, field in schema.fields.items()}
        index = KeyIndex(self._storage, schema, record.index, record.extents, columns[IDS], columns[EPOCH], previous,
                         kept=self._kept)
        return Snapshot(record, schema, columns, index, self._storage.url, _snapshot,
                        (self._ticket, record.version, record.commit_id, self._options))


def _reopened(held: Ticket, version: int, commit_id: str, options: dict[str, Any]) -> Reader:
    """What a pickled reader becomes: the same version, or Conflict where the store is another one by now."""
    url, storage_options = redeem(held)
    try:
        reader = Reader(url, version=version, storage_options=storage_options, **options)
    except (PermissionError, StoreNotFound) as error:
        if is_foreign(held):            # some services say "absent" to whom they don't know
            raise type(error)(f"{error}; {advice(held)}") from None
        raise
    found = reader._now()[0].record.commit_id
    if found != commit_id:
        raise Conflict(f"the store at {held.url} was replaced: its version {version} is not the one that was pickled")
    return reader


def _snapshot(held: Ticket, version: int, commit_id: str, options: dict[str, Any]) -> Snapshot:
    return _reopened(held, version, commit_id, options)._now()[0]


__all__ = ["Reader"]
