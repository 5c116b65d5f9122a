"""Going back: an opening commit with an older version's rows."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Any

from zstore.commits.history import Commit
from zstore.commits.log import Log
from zstore.commits.opening import Request, open_session
from zstore.commits.projection import project
from zstore.notices import warn
from zstore.storage import open_storage


def rollback(url: str | os.PathLike[str], to: Any, *, storage_options: Mapping[str, Any] | None = None) -> Commit:
    """Make the rows of ``to`` (a version, tag, mark or Commit) head's again, as a new version, and give its Commit.

    Atomic and durable. No byte is removed: what is cut stays readable at its versions. Raises Conflict while a writer
    lives, NotFound, BehindCheckpoint, StoreNotFound."""
    log = Log(open_storage(url, storage_options))
    head = log.head()
    session = open_session(log, Request(secrets.token_hex(16), at=log.resolve(to).mark, keep_tail=True))
    try:
        project(log, f"{session.info.opened:020d}")
    finally:
        session.lock.release()
    cut = len(head.extents - session.opening.extents)
    if cut:
        warn(f"{log.storage.url}: rolled back from version {head.version}: {cut:,} rows are cut (they stay readable at their "
             "versions)")
    return Commit.of(session.opening)
