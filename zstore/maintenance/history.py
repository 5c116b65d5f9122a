"""The versions of a store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from zstore.commits.history import Commit
from zstore.commits.log import Log
from zstore.commits.whole import check_whole
from zstore.storage import open_storage


def history(url: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None) -> list[Commit]:
    """Every commit, oldest first; the last is head. Reads one record per version. Raises StoreNotFound."""
    log = Log(open_storage(url, storage_options))
    check_whole(log, log.head())
    tags = {log.tag(name): name for name in log.tags()}
    return [Commit.of(record, tags.get(record.version)) for record in log.history()]
