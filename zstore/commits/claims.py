"""Claims: who may write a shard. Created if absent before the first byte, never deleted."""

from __future__ import annotations

import secrets

from zstore.errors import Conflict, InDoubt, StaleWriter
from zstore.format.checksum import open_json, seal_json
from zstore.format.layout import claim_name, path_claim_name
from zstore.format.record import FORMAT_MAJOR, FORMAT_MINOR, Record, SessionInfo
from zstore.format.schema import MAX_SHARDS
from zstore.storage.base import Storage


def claim_shard(storage: Storage, session: SessionInfo, start: int, likely: bool = False) -> int:
    """The first free shard from ``start`` upward, now this session's. Atomic against every other writer. ``likely``: it is
    probably ``start``, and worth a try before anything is looked at."""
    if likely and start < MAX_SHARDS and _claim(storage, claim_name(start), session, shard=start):
        return start
    shard = _first_free(storage, start)
    if shard >= MAX_SHARDS:
        raise Conflict(f"{storage.url} has {MAX_SHARDS:,} shards, the most that a store may have: compact it, or begin "
                       "another with more rows_per_shard")
    while not _claim(storage, claim_name(shard), session, shard=shard):
        shard += 1
    return shard


def claim_path(storage: Storage, session: SessionInfo, name: str) -> str:
    """A folder that no field ever used: ``name``, else ``name.2``, ``name.3``, …"""
    for number in range(1, 10**6):
        path = name if number == 1 else f"{name}.{number}"
        if _claim(storage, path_claim_name(path), session, path=path):
            return path
    raise Conflict(f"the field name {name!r} was used a million times; choose another")


def is_claimed(storage: Storage, shard: int) -> bool:
    return storage.exists(claim_name(shard))


def check_fence(head: Record, session: SessionInfo, url: str) -> None:
    """StaleWriter unless head is still of this session."""
    theirs = head.session
    if theirs.opened != session.opened or theirs.commit_id != session.commit_id:
        raise StaleWriter(f"{url} was taken over by pid {theirs.pid} on {theirs.host} (version {theirs.opened}); this writer "
                          f"(opened as version {session.opened}) can write no more; what it committed stays")


def _first_free(storage: Storage, start: int) -> int:
    # Claims are dense from `next` upward, so a gallop finds their end without a listing.
    if not is_claimed(storage, start):
        return start
    low, step = start, 1
    while is_claimed(storage, low + step) and low < MAX_SHARDS:
        low, step = low + step, step * 2
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_claimed(storage, middle) else (low, middle)
    return high


def _claim(storage: Storage, name: str, session: SessionInfo, **what: int | str) -> bool:
    # The nonce tells our own claim, whose reply was lost, from another's. The name is made durable by the commit that
    # first names the shard; a claim that a power loss takes was of a writer that it ended.
    nonce = secrets.token_hex(16)
    body = seal_json({"format": f"{FORMAT_MAJOR}.{FORMAT_MINOR}", **what, "opened": session.opened,
                      "session": session.commit_id, "nonce": nonce})
    try:
        if storage.create(storage.draft([body], f"{session.opened:020d}"), name):
            return True
    except InDoubt as error:        # should it land later, its shard stays unused: no reason to end the writer
        raise OSError(str(error)) from error
    return bool(open_json(storage.read(name), name).get("nonce") == nonce)
