"""Going back: an opening commit with an older version's rows."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Any

from zstore.commits.history import Commit
from zstore.commits.log import Log
from zstore.commits.opening import Request
from zstore.maintenance.opening import open_once
from zstore.notices import warn
from zstore.storage import open_storage


def rollback(url: str | os.PathLike[str], to: Any, *, only_writer: bool = False,
             storage_options: Mapping[str, Any] | None = None) -> Commit:
    """Make the rows of ``to`` (a version, tag, mark or Commit) head's again, as a new version, and give its Commit. Rows
    that were deleted since stay away.

    Atomic and durable. No byte is removed: what is cut stays readable at its versions. ``only_writer``: nobody else writes,
    for storages that can't make sure of it. Raises Conflict while a writer
    lives, NotFound, BehindCheckpoint, StoreNotFound, Corrupt where it can't be known what was deleted since."""
    log = Log(open_storage(url, storage_options))
    log.head()
    target = log.resolve(to)
    opening = open_once(log, Request(secrets.token_hex(16), at=target.mark, keep_tail=True), only_writer)
    before = log.read(opening.version - 1)
    cut = len(before.extents - opening.extents)
    away = len(target.extents - opening.extents)
    if away:
        warn(f"{log.storage.url}: {away:,} rows of version {target.version} were deleted since, and stay away")
    if cut:
        warn(f"{log.storage.url}: rolled back from version {before.version}: {cut:,} rows are cut (they stay readable at their "
             "versions)")
    return Commit.of(opening)
