"""The projection: Zarr's documents, brought to head after each commit. Derived; readers of ours never need it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from zstore.commits.log import Log
from zstore.errors import Conflict, Corrupt
from zstore.format.checksum import parse_json
from zstore.format.layout import ROOT, array_document, array_name, root_document, to_bytes
from zstore.format.record import Record
from zstore.storage.base import Storage
from zstore.storage.ranges import at_once

_RANDOM = random.SystemRandom()     # not the global one: a training's random numbers stay as they are

_TRIES = 20
_ROUNDS = 3

Known: TypeAlias = dict[str, tuple[bytes, str]]     # what a document was when it was last looked at or written; its generation


def project(log: Log, tag: str, known: Known | None = None) -> None:
    """Bring the array documents, then the root, to head. Array documents never get shorter, the root only gets a higher
    version: locally one lock covers it all; a distant storage replaces each only over the generation that was looked at.
    OSError when a write fails.

    ``known`` is kept from call to call by who projects often: a document is replaced over the generation that it had then,
    without a look, and looked at where it has another by now. The caller said ``log.saw`` of what it published."""
    storage = log.storage
    if not (storage.distant and storage.rewrites):
        known = None                    # without a condition, only a look tells what stands there
    with storage.exclusive():
        head, rounds = (log.seen() if known and ROOT in known else log.head()), 0
        # A distant storage has no lock: many who commit at once would each go on for the others for ever.
        while not _root_is(log, head, known) and (rounds < _ROUNDS or not storage.distant):
            _write(log, head, tag, known)
            written, head, rounds = head.version, log.head(), rounds + 1
            if head.version == written:
                return


def documents(log: Log, record: Record) -> dict[str, dict[str, Any]]:
    """What every ``zarr.json`` of the store should say at this record, by name; the root comes last."""
    schema = log.schema_of(record)
    wanted = {array_name(f): array_document(schema, f, record.length) for f in schema.fields.values()}
    wanted[ROOT] = root_document(schema, record.length, record.version, record.commit_id, record.extents)
    return wanted


def _write(log: Log, head: Record, tag: str, known: Known | None) -> None:
    storage = log.storage
    wanted = documents(log, head)
    root = wanted.pop(ROOT)
    puts = [partial(_put, storage, name, document, tag, partial(_is_as_long, document), known)
            for name, document in wanted.items()]
    if storage.distant:
        at_once(puts)
    else:
        for put in puts:
            put()
    # Synced before the root: a power loss must not leave a root whose extents reach past the arrays.
    storage.sync(f.path for f in log.schema_of(head).fields.values())
    _put(storage, ROOT, root, tag, partial(_is_at, log, head), known)
    storage.sync([""])


def _put(storage: Storage, name: str, document: dict[str, Any], tag: str, stands: Callable[[Any], bool],
         known: Known | None) -> None:
    """Replace the document, unless it says as much already. Another projector may come between: then it is looked at anew."""
    data = to_bytes(document)
    for _ in range(_TRIES):
        old, generation = known.pop(name) if known and name in known else _fetch(storage, name)
        try:
            if old == data or (storage.distant and old is not None and stands(parse_json(old, name))):
                if known is not None and generation is not None:
                    known[name] = old, generation
                return
        except (ValueError, KeyError, TypeError, IndexError, Corrupt):
            pass                    # damaged, or not ours: replaced
        try:
            generation = storage.rewrite(storage.draft([data], tag), name, generation)
            if known is not None:
                known[name] = data, generation
            return
        except Conflict:
            time.sleep(_RANDOM.random() * 0.05)
    raise OSError(f"{name} was changed by others {_TRIES} times while it was to be brought to head")


def _fetch(storage: Storage, name: str) -> tuple[bytes | None, str | None]:
    try:
        return storage.fetch(name)
    except FileNotFoundError:
        return None, None


def _root_is(log: Log, head: Record, known: Known | None) -> bool:
    if known and ROOT in known:
        return False                    # as far as is known; what stands there now is looked at once it is another
    try:
        return _is_at(log, head, parse_json(log.storage.read(ROOT), ROOT))
    except (OSError, ValueError):
        return False


def _is_as_long(wanted: Any, document: Any) -> bool:
    return bool({**document, "shape": wanted["shape"]} == wanted) and int(document["shape"][0]) >= wanted["shape"][0]


def _is_at(log: Log, head: Record, document: Any) -> bool:
    """The root is at head or above it. An old one counts only if its commit is one of this log: a root restored from a
    backup, or from another store, must not keep ours away for ever."""
    try:
        ours = document["attributes"]["zstore"]
        version = int(ours["version"])
        if version < head.version or ours["store_id"] != head.store_id:
            return False
        record = head if version == head.version else log.find(version)
        return record is not None and record.commit_id == ours["commit_id"]
    except (TypeError, KeyError, ValueError):
        return False
