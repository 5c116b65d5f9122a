"""Stores that are not whole yet: `compact` writes record 0 first, which says so, and the record that ends it last."""

from __future__ import annotations

from zstore.commits.log import Log
from zstore.errors import Conflict, StoreNotFound
from zstore.format.record import Record


def is_half_made(head: Record) -> bool:
    """Record 0 says which version is the first to be read (``whole``), and head is below it."""
    whole = head.extra.get("whole")
    return isinstance(whole, int) and head.version < whole


def check_whole(log: Log, head: Record) -> None:
    """StoreNotFound where this head is of a store that is still being made: there is nothing to read yet."""
    if is_half_made(head):
        raise StoreNotFound(f"the store at {log.storage.url} is still being made by compact; open it when that has finished, "
                            "or run it again")


def check_openable(log: Log, head: Record) -> None:
    """Conflict where this head is of a store that is still being made: nobody else writes here."""
    if is_half_made(head):
        raise Conflict(f"the store at {log.storage.url} is still being made by compact; write to it when that has finished, "
                       "or run it again")
