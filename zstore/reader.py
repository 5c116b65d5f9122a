"""``Reader``: a store opened at one version."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from zstore.cache import Cache, process_cache
from zstore.commits.history import Commit
from zstore.commits.log import Log
from zstore.errors import Conflict, NotFound, StoreNotFound
from zstore.format.record import Record
from zstore.format.schema import EPOCH, IDS
from zstore.index import KeyIndex
from zstore.mapping import Column
from zstore.rows import Rows
from zstore.storage import open_storage
from zstore.view import Snapshot, View


class Reader(View):
    """The view of all rows of one version: head, or ``version``, or the one named by ``tag``.

    It stays at its version until ``refresh``. Safe among threads; may be used in forked children; pickles as its URL,
    version and options. Opening reads the version's record and schema, and no rows.

    ``cache_bytes`` bounds the decoded chunks of this reader alone (default: one bound for all readers of the process, a
    quarter of the available memory). ``cache_dir`` is for remote stores, and does nothing for a local one. ``verify``
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
        self._options = {"cache_dir": None if cache_dir is None else os.fspath(cache_dir), "cache_bytes": cache_bytes,
                         "storage_options": None if storage_options is None else dict(storage_options)}
        self._columns: dict[str, Column] = {}
        head = self._log.head()
        _refuse_half_made(self._storage.url, head)
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
        kept = {field.path: self._columns.get(field.path) or Column(self._storage, schema, field, self._cache)
                for field in schema.fields.values()}
        for column in kept.values():
            column.cover(record.extents)
        self._columns = {**self._columns, **kept}
        columns = {name: kept[field.path] for name, field in schema.fields.items()}
        index = KeyIndex(self._storage, schema, record.index, record.extents, columns[IDS], columns[EPOCH], previous)
        return Snapshot(record, schema, columns, index, self._storage.url, _snapshot,
                        (self._storage.url, record.version, record.commit_id, self._options))


def _refuse_half_made(url: str, head: Record) -> None:
    whole = head.extra.get("whole")
    if isinstance(whole, int) and head.version < whole:
        raise StoreNotFound(f"the store at {url} is still being made by compact; open it when that has finished, or "
                            "run it again")


def _reopened(url: str, version: int, commit_id: str, options: dict[str, Any]) -> Reader:
    """What a pickled reader becomes: the same version, or Conflict where the store is another one by now."""
    reader = Reader(url, version=version, **options)
    found = reader._now()[0].record.commit_id
    if found != commit_id:
        raise Conflict(f"the store at {url} was replaced: its version {version} is not the one that was pickled")
    return reader


def _snapshot(url: str, version: int, commit_id: str, options: dict[str, Any]) -> Snapshot:
    return _reopened(url, version, commit_id, options)._now()[0]


__all__ = ["Reader"]
