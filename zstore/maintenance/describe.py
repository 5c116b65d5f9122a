"""What a store says of itself in its head record: no row is read, so it is instant on a store of any size."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from zstore.commits.history import Commit
from zstore.commits.log import Log
from zstore.commits.opening import is_alive
from zstore.commits.whole import check_whole
from zstore.format.record import Record
from zstore.storage import open_storage


@dataclass(frozen=True)
class Description:
    """One version of a store. ``fields`` maps each name to its dtype and the shape of one row; ``superseded`` counts the
    rows whose key a later row holds (None: not counted); ``writer`` says whether head's session still lives."""

    url: str
    head: int
    commit: Commit
    since: float            # when the version's session was opened, in seconds since 1970
    codec: str
    rows_per_shard: int
    fields: dict[str, tuple[str, tuple[int, ...]]]
    superseded: int | None
    attrs: dict[str, Any]
    writer: Literal["alive", "none", "unknown"]
    extents: int            # runs of addresses that the version's rows lie in: 1 where nothing was ever cut or left
    place: dict[str, str]   # what of creation, locks and mapping holds where the store lies


def describe(url: str | os.PathLike[str], *, version: int | None = None, tag: str | None = None,
             storage_options: Mapping[str, Any] | None = None) -> Description:
    """Describe head, or the version given or tagged. Changes nothing. Raises StoreNotFound, NotFound, Corrupt."""
    log = Log(open_storage(url, storage_options))
    head = log.head()
    check_whole(log, head)
    wanted = log.tag(tag) if tag is not None else head.version if version is None else version
    record = head if wanted == head.version else log.read(wanted)
    schema = log.schema_of(record)
    return Description(log.storage.url, head.version, Commit.of(record, tag), record.session.since, schema.codec,
                       schema.rows_per_shard, {f.name: (f.dtype, f.shape) for f in schema.fields.values()},
                       record.superseded, dict(schema.attrs), _writer(log, head), len(record.extents.starts),
                       log.storage.offers())


def _writer(log: Log, head: Record) -> Literal["alive", "none", "unknown"]:
    try:
        return "alive" if is_alive(log, head) else "none"
    except (OSError, RuntimeError):      # a storage that has no such locks, or a folder that we may not write to
        return "unknown"
