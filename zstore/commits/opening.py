"""Opening a store for writing: the record that starts a session, or the joining of one that lives."""

from __future__ import annotations

import os
import random
import secrets
import socket
import time
from dataclasses import dataclass, replace
from typing import Any

from zstore.commits.claims import check_fence, is_claimed
from zstore.commits.deletes import surviving, write_deletes
from zstore.commits.history import Commit
from zstore.commits.log import Log
from zstore.commits.publish import create_record, opening_of
from zstore.commits.whole import check_openable
from zstore.errors import Conflict, Corrupt
from zstore.format.deletes import Keys, deletes_id
from zstore.format.extents import Extents
from zstore.format.layout import COMMITS, FOLDERS, deletes_name, live_name
from zstore.format.record import Record, SessionInfo
from zstore.format.schema import Schema
from zstore.notices import logger
from zstore.shards.read import open_shard
from zstore.storage.base import Lock, Renewed

_RANDOM = random.SystemRandom()     # not the global one: a training's random numbers stay as they are

SILENT_S = 5.0      # whoever waits longer is told why


@dataclass(frozen=True)
class Request:
    """How a writer wants in. ``token``: one per launch; equal tokens share a session. ``keep_tail``: it will write no
    rows, so head's tail is left to the next. ``deletes``: keys whose rows this opening takes away, for good."""

    token: str
    member: int = 0
    at: Any = None
    takeover: bool = False
    attrs: dict[str, Any] | None = None
    keep_tail: bool = False
    deletes: Keys | None = None


@dataclass
class Session:
    """One writer's membership: its own description, the opening record, its shared lock on the session's life, and the
    shard that the opening took over (with the rows that it holds), or None."""

    info: SessionInfo
    opening: Record
    lock: Lock
    taken: tuple[int, int] | None = None


def open_session(log: Log, request: Request) -> Session:
    """Join head's session if the token is its, else open a new one. The store exists.

    Every attempt starts over from its head: liveness, tail, target, the rows of deleted keys. Raises Conflict when
    head's session lives."""
    patience = log.storage.patience_s
    deadline, said = time.monotonic() + patience, False
    while True:
        head = log.head()
        check_openable(log, head)
        if head.session.token == request.token:
            session = _join(log, head, request)
        else:
            session = _try_open(log, head, request, give_up=time.monotonic() > deadline)
        if session is not None:
            return session
        if patience > SILENT_S and not said:
            said = True
            logger.warning("%s; waiting at most %.0f s to see whether it still lives", _who(log, head), patience)
        time.sleep((0.01 + _RANDOM.random() * 0.025) * patience)


def create_store(log: Log, schema: Schema, request: Request, extra: dict[str, Any] | None = None) -> Session | None:
    """Record 0: schema and opening commit in one, durable on return. None when another writer's record 0 is there.
    ``extra``: further members of it."""
    storage = log.storage
    # The fields' folders come after record 0: without it, a folder with anything but `_zstore` is not ours to take.
    storage.make_folders(FOLDERS)
    lock = storage.share_live(live_name(0))
    info = _describe(request, opened=0, at=None)
    record = Record(schema.store_id, 0, info.commit_id, None, info, info.since, 0, Extents(), 0, 0, None, (),
                    definition=schema, extra=extra or {})
    try:
        if create_record(storage, record):
            return Session(info, record, lock)
    except BaseException:
        lock.release()
        raise
    lock.release()
    return None


def reopen_session(log: Log, session: Session, target: Record) -> Session:
    """A second opening by the same writer (``load_state_dict``): only on a head of its own session. It keeps its own
    shared lock until the new record exists, which keeps polite openers out, and the tail that the first one took."""
    while True:
        head = log.head()
        check_fence(head, session.info, log.storage.url)
        version = head.version + 1
        lock = log.storage.share_live(live_name(version))
        info = replace(session.info, opened=version, commit_id=secrets.token_hex(16), since=time.time(), at=target.mark)
        try:
            left = surviving(log, head, target)
            record = opening_of(head, left, info, tail=head.tail, commit_id=info.commit_id)
            same = log.schema_of(target).fields == log.schema_of(head).fields
            created = create_record(log.storage, record)
        except BaseException:
            lock.release()
            raise
        if created:             # nothing may fail from here on: the old session is fenced
            session.lock.release()
            return Session(info, record, lock, session.taken if same else None)
        lock.release()


def is_alive(log: Log, record: Record) -> bool:
    """Whether a writer of this record's session lives; asks the lock, changes nothing."""
    return log.storage.is_held(live_name(record.session.opened))


def _join(log: Log, head: Record, request: Request) -> Session | None:
    opened = head.session.opened
    lock = log.storage.share_live(live_name(opened))
    try:
        # Locked, then read again: an opener that tried the lock before us may have published since.
        if log.head().session.opened != opened:
            lock.release()
            return None
        opening = log.read(opened)
        _check_joiner(log, opening, request)
    except BaseException:
        lock.release()
        raise
    info = replace(opening.session, host=socket.gethostname(), pid=os.getpid(), member=request.member)
    return Session(info, opening, lock)


def _check_joiner(log: Log, opening: Record, request: Request) -> None:
    wanted = None if request.at is None else log.resolve(request.at).mark
    if wanted is not None and wanted != opening.session.at:
        raise Conflict(f"this session of {log.storage.url} was opened at {opening.session.at}, not at {wanted}; every "
                       "member must name the same mark")


def _try_open(log: Log, head: Record, request: Request, *, give_up: bool) -> Session | None:
    storage = log.storage
    guard = None
    if not request.takeover:
        try:
            guard = storage.try_exclusive_live(live_name(head.session.opened))
        except Renewed:
            raise Conflict(_lives(log, head, request)) from None
        if guard is None:
            if give_up:
                raise Conflict(_lives(log, head, request))
            return None
    version = head.version + 1
    try:
        mine = storage.share_live(live_name(version))
        try:
            session = _publish_opening(log, head, request, mine)
        except BaseException:
            mine.release()
            raise
    finally:
        if guard is not None:
            guard.release()
    if session is None:
        mine.release()
    return session


def _publish_opening(log: Log, head: Record, request: Request, lock: Lock) -> Session | None:
    target = head if request.at is None else surviving(log, head, log.resolve(request.at))
    definition = _with_attrs(log.schema_of(target), request.attrs)
    info = _describe(request, opened=head.version + 1, at=None if request.at is None else target.mark)
    taken = None if request.keep_tail else takeable_tail(log, head, definition or log.schema_of(target))
    record = opening_of(head, target, info, tail=None if taken else head.tail, commit_id=info.commit_id,
                        definition=definition)
    if request.deletes is not None:
        record = write_deletes(log, head, record, request.deletes)
    if create_record(log.storage, record):
        return Session(info, record, lock, taken)
    if request.deletes is not None:     # no record can ever name it
        log.storage.delete(deletes_name(deletes_id(record.version, record.commit_id)))
    return None


def takeable_tail(log: Log, head: Record, schema: Schema) -> tuple[int, int] | None:
    """``(shard, rows)`` of head's tail if an opening may go on writing it: no claim lies above it, the trailers of all
    fields cover the same rows, head's extents end exactly there, and the fields are the same."""
    shard, rows_per_shard = head.tail, schema.rows_per_shard
    if shard is None or not log.storage.rewrites or head.next > shard + 1 or is_claimed(log.storage, shard + 1):
        return None
    if log.schema_of(head).fields != schema.fields:
        return None
    rows = head.extents.end - shard * rows_per_shard
    if not 0 < rows < rows_per_shard:
        return None
    try:
        for f in schema.fields.values():
            if open_shard_rows(log, schema, f.name, shard) != rows:
                return None
    except Corrupt:
        return None             # left as it is, for `verify` to name; a hole costs nothing but its addresses
    return shard, rows


def open_shard_rows(log: Log, schema: Schema, field: str, shard: int) -> int:
    """The rows that a shard's trailer covers."""
    opened = open_shard(log.storage, schema, schema.fields[field], shard)
    try:
        return opened.end.rows
    finally:
        opened.handle.close()


def _with_attrs(schema: Schema, attrs: dict[str, Any] | None) -> Schema | None:
    added = {key: value for key, value in (attrs or {}).items() if key not in schema.attrs}
    return replace(schema, attrs={**schema.attrs, **added}) if added else None


def _describe(request: Request, *, opened: int, at: dict[str, Any] | None) -> SessionInfo:
    return SessionInfo(opened, secrets.token_hex(16), request.token, socket.gethostname(), os.getpid(), request.member,
                       time.time(), at)


def _lives(log: Log, head: Record, request: Request) -> str:
    way = ("or end it, and call again" if request.keep_tail else
           f"or pass takeover=True to fence it ({COMMITS} keeps what it committed)")
    return f"{_who(log, head)}; wait until it closes, {way}"


def _who(log: Log, head: Record) -> str:
    opening = log.read(head.session.opened)
    s = opening.session
    return f"{log.storage.url} is being written by pid {s.pid} on {s.host} since {Commit.of(opening).when}"
