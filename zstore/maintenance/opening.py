"""One opening commit, and nothing more: how `rollback` and `delete` change what a version names."""

from __future__ import annotations

from zstore.commits.log import Log
from zstore.commits.opening import Request, open_session
from zstore.commits.projection import project
from zstore.commits.whole import check_whole
from zstore.errors import ZStoreError
from zstore.format.record import Record
from zstore.notices import warn


def open_once(log: Log, request: Request, only_writer: bool = False) -> Record:
    """Publish an opening commit, bring Zarr's documents to it, let go of the session, and give the record.

    ``only_writer``: nobody else writes, for storages that can't make sure of it. Raises StoreNotFound, Conflict while a
    writer lives, PermissionError where the store can't be written."""
    check_whole(log, log.head())
    log.storage.writable(only_writer)
    session = open_session(log, request)
    try:
        project(log, f"{session.info.opened:020d}")
    except (OSError, ZStoreError) as error:
        # The commit is there: an error now would say that it is not.
        warn(f"{log.storage.url}: version {session.opening.version} is committed, but Zarr's documents could not be brought "
             f"to it ({error}); the next commit, or `zstore verify --repair`, tries again")
    finally:
        session.lock.release()
    return session.opening
