"""Removing litter: what crashed, fenced and interrupted writers left, and no version ever named.

Safe beside living writers, openers and readers, without a lock, a clock or a record of its own. Head is read once, and then
everything that the records up to it name; only then are objects listed. What is unnamed and belongs to a session older than
that head's can be named by nobody any more: such a session is fenced, and every later record adds only what its own session
wrote, or goes back to what an older record names. What is of head's session, or of one that opened meanwhile, stays.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zstore.commits.log import Log
from zstore.commits.whole import check_whole
from zstore.errors import Corrupt
from zstore.format.checksum import open_json
from zstore.format.deletes import deletes_id
from zstore.format.extents import Extents
from zstore.format.layout import (
    DELETES,
    HOME,
    INDEX,
    LIVE,
    TMP,
    claim_name,
    commit_name,
    path_claim_name,
    shard_name,
)
from zstore.format.record import Record
from zstore.format.schema import Field
from zstore.notices import logger
from zstore.storage import open_storage
from zstore.storage.base import Storage

_OWNED = re.compile(r"([0-9]{20})-[0-9a-f]{32}\Z")      # runs, lists of deleted keys, temporary files: by opening number
_NUMBER = re.compile(r"[0-9]{20}\Z")
_SHARD = re.compile(r"c\.(0|[1-9][0-9]{0,17})(?:\.0)*\Z")
_PASSING = ("probe-", "clock-")


def gc(url: str | os.PathLike[str], *, dry_run: bool = False, storage_options: Mapping[str, Any] | None = None) -> list[str]:
    """Remove objects that no version names and that a session older than head's left, and give their names.

    Shards, index runs, lists of deleted keys, the objects of fields that were never published, temporary files, and signs of
    life of sessions that ended. Never a record, a claim or a tag, and nothing whose owner can't be told. Every version
    stays readable: rows that are cut, deleted or superseded go only with ``compact``. ``dry_run`` removes nothing. Safe at
    any moment; reads every record, one at a time. Raises StoreNotFound, and Corrupt where a record can't be read: what it
    names would not be known; PermissionError."""
    log = Log(open_storage(url, storage_options))
    head = log.head()
    check_whole(log, head)
    probes = _probes(log.storage)
    names = list(_litter(log.storage, _read_all(log, head)))
    names += sorted(probes & _probes(log.storage))
    if not dry_run:
        for name in names:
            _remove(log.storage, name)
        logger.info("%s: gc removed %d objects", log.storage.url, len(names))
    return names


def _remove(storage: Storage, name: str) -> None:
    try:
        storage.delete(name)
    except PermissionError as error:
        raise PermissionError(f"cannot write {storage.url}: this user may not remove {name} ({error.strerror or error})"
                              ) from error


@dataclass
class Named:
    """What the records up to ``head`` name."""

    head: Record
    rows_per_shard: int
    sessions: dict[int, str] = field(default_factory=dict)      # opening number: the commit id of that record
    rows: Extents = field(default_factory=Extents)              # of any version
    fields: dict[str, Field] = field(default_factory=dict)      # by path
    objects: set[str] = field(default_factory=set)              # runs and lists of deleted keys, by their last part

    def has_shard(self, shard: int) -> bool:
        """Some version has rows in it."""
        start = shard * self.rows_per_shard
        if start >= self.rows.end:
            return False
        run = int(np.searchsorted(self.rows.starts + self.rows.counts, start, "right"))     # the first that ends behind it
        return int(self.rows.starts[run]) < start + self.rows_per_shard

    def is_older(self, opened: int) -> bool:
        """A session that head's has fenced."""
        return opened < self.head.session.opened


def _read_all(log: Log, head: Record) -> Named:
    named = Named(head, log.schema_of(head).rows_per_shard)
    for version in range(head.version + 1):
        record = head if version == head.version else log.find(version)
        if record is None:
            raise Corrupt(commit_name(version), "the commit record is missing, so it can't be known what it names")
        if record.opens:
            named.sessions[version] = record.commit_id
        if record.definition is not None:
            named.fields |= {f.path: f for f in record.definition.fields.values()}
        named.objects.update(record.index)
        if record.deletes == version:
            named.objects.add(deletes_id(version, record.commit_id))
        fresh = record.extents - named.rows
        if len(fresh):
            named.rows = named.rows | fresh
    return named


def _litter(storage: Storage, named: Named) -> Iterator[str]:
    yield from _shards(storage, named)
    yield from _unpublished_fields(storage, named)
    for folder in (INDEX, DELETES, TMP):
        for name in storage.list(folder):
            owned = _OWNED.match(name)
            if owned and named.is_older(int(owned[1])) and name not in named.objects:
                yield f"{folder}/{name}"
    yield from _signs_of_life(storage, named)


def _shards(storage: Storage, named: Named) -> Iterator[str]:
    """The objects of shards that no version has rows in and that a fenced session claimed."""
    known = {}
    for path, f in sorted(named.fields.items()):
        for name in storage.list(path):
            found = _SHARD.match(name)
            if not found or f"{path}/{name}" != shard_name(f, shard := int(found[1])):
                continue
            if shard not in known:
                known[shard] = not named.has_shard(shard) and _is_left(storage, named, claim_name(shard), "shard", shard)
            if known[shard]:
                yield f"{path}/{name}"


def _unpublished_fields(storage: Storage, named: Named) -> Iterator[str]:
    """The objects of a field that a fenced session was adding. Other folders beside the fields are not ours."""
    for path in storage.folders(""):
        if path != HOME and path not in named.fields and _is_left(storage, named, path_claim_name(path), "path", path):
            yield from (f"{path}/{name}" for name in storage.list(path))


def _is_left(storage: Storage, named: Named, claim: str, what: str, value: int | str) -> bool:
    """The claim says that a session of this log, older than head's, may write it. A claim that can't be read says nothing,
    and what it is the claim of stays."""
    try:
        document = open_json(storage.read(claim), claim)
    except (FileNotFoundError, Corrupt):
        return False
    opened = document.get("opened")
    return (document.get(what) == value and type(opened) is int and named.is_older(opened)
            and named.sessions.get(opened) == document.get("session"))


def _signs_of_life(storage: Storage, named: Named) -> Iterator[str]:
    """Only head's session's are ever asked for, and those of openers that try for a number above head."""
    for name in storage.list(LIVE):
        if _NUMBER.match(name) and named.is_older(int(name)):
            yield f"{LIVE}/{name}"
    for folder in storage.folders(LIVE):
        if _NUMBER.match(folder) and named.is_older(int(folder)):
            yield from (f"{LIVE}/{folder}/{name}" for name in storage.list(f"{LIVE}/{folder}"))


def _probes(storage: Storage) -> set[str]:
    # They carry no number. One lives for a request or two: what is there before the log is read, and after, was left over.
    return {f"{TMP}/{name}" for name in storage.list(TMP) if name.startswith(_PASSING)}
