"""The projection: Zarr's documents, brought to head after each commit. Derived; readers of ours never need it."""

from __future__ import annotations

import json
from typing import Any

from zstore.commits.log import Log
from zstore.format.layout import ROOT, array_document, array_name, root_document, to_bytes
from zstore.format.record import Record
from zstore.storage.base import Storage


def project(log: Log, tag: str) -> None:
    """Bring the array documents, then the root, to head. One lock covers it all, so that two projectors can't mix;
    array documents never get shorter, the root only gets a higher version. OSError when a write fails."""
    with log.storage.exclusive():
        while True:
            head = log.head()
            if _root_is(log, head):
                return
            _write(log, head, tag)
            if log.head().version == head.version:
                return


def documents(log: Log, record: Record) -> dict[str, dict[str, Any]]:
    """What every ``zarr.json`` of the store should say at this record, by name; the root comes last."""
    schema = log.schema_of(record)
    wanted = {array_name(f): array_document(schema, f, record.length) for f in schema.fields.values()}
    wanted[ROOT] = root_document(schema, record.length, record.version, record.commit_id, record.extents)
    return wanted


def _write(log: Log, head: Record, tag: str) -> None:
    storage = log.storage
    wanted = documents(log, head)
    root = wanted.pop(ROOT)
    for name, document in wanted.items():
        _put(storage, name, document, tag)
    _put(storage, ROOT, root, tag)
    storage.sync(["", *(f.path for f in log.schema_of(head).fields.values())])


def _put(storage: Storage, name: str, document: dict[str, Any], tag: str) -> None:
    storage.replace(storage.draft([to_bytes(document)], tag), name)


def _read(storage: Storage, name: str) -> Any:
    try:
        return json.loads(storage.read(name))
    except (OSError, ValueError, RecursionError):
        return None


def _root_is(log: Log, head: Record) -> bool:
    """The root is at head or above it. An old one counts only if its commit is one of this log: a root restored from a
    backup, or from another store, must not keep ours away for ever."""
    document = _read(log.storage, ROOT)
    try:
        ours = document["attributes"]["zstore"]
        version = int(ours["version"])
        if version < head.version or ours["store_id"] != head.store_id:
            return False
        record = head if version == head.version else log.find(version)
        return record is not None and record.commit_id == ours["commit_id"]
    except (TypeError, KeyError, ValueError):
        return False
