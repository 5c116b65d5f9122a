"""Where a compacted store is made: begun by one run, gone on with by the next, and never by two at once.

Record 0 comes first and says ``whole: 1``, so that nobody takes the store for one before record 1 is there. It also says
from what the store is made and how, so that whoever goes on makes the same.
"""

from __future__ import annotations

import os
import random
import secrets
import socket
import time
from dataclasses import dataclass, replace
from typing import Any

from zstore.commits.log import Log
from zstore.commits.opening import Request, create_store
from zstore.commits.whole import is_half_made
from zstore.errors import AlreadyExists, Conflict
from zstore.format import dtypes
from zstore.format.codecs import PRESETS
from zstore.format.layout import live_name
from zstore.format.record import Record, SessionInfo
from zstore.format.schema import (
    EPOCH,
    IDS,
    MAX_SHARD_BYTES,
    VECTORS,
    Schema,
    default_rows_per_shard,
    make_field,
)
from zstore.storage.base import Lock, Renewed, Storage
from zstore.writing.place import check_place

ORDERS = (None, "epoch", "id")


@dataclass(frozen=True)
class Wish:
    """How the new store shall be; None: as the source is."""

    codec: str | None
    dtype: str | None
    order: str | None

    @classmethod
    def parse(cls, codec: Any, dtype: Any, order: Any) -> Wish:
        """ValueError that says what may be asked for."""
        if codec is not None and codec not in PRESETS:
            raise ValueError(f"codec must be one of {', '.join(map(repr, PRESETS))}, not {codec!r}")
        name = None if dtype is None else dtypes.name_of(dtype)
        if dtype is not None and name not in dtypes.VECTOR_NAMES:
            raise ValueError(f"dtype must be one of {', '.join(dtypes.VECTOR_NAMES)}, not {dtype!r}")
        if order not in ORDERS:
            raise ValueError(f"order must be None (as it is), 'epoch' or 'id', not {order!r}")
        return cls(codec, name, order)

    def schema(self, source: Schema) -> Schema:
        """The new store's schema. TypeError where vectors can't go from one type to the other."""
        dtype = self.dtype or source.vectors.dtype
        if dtypes.is_float(source.vectors.dtype) and not dtypes.is_float(dtype):
            raise TypeError(f"the vectors are {source.vectors.dtype}, and {dtype} can't hold them; quantise them first")
        rows = _rows_per_shard(source, dtype)
        fields = {VECTORS: make_field(VECTORS, dtype, source.vectors.shape, rows),
                  IDS: make_field(IDS, source.fields[IDS].dtype, (), rows),
                  EPOCH: make_field(EPOCH, "int32", (), rows, fill=-1)}
        for name, f in source.user_fields.items():
            fields[name] = make_field(name, f.dtype, f.shape, rows, fill=f.fill, optional=f.optional)
        return Schema(secrets.token_hex(16), rows, self.codec or source.codec, fields, dict(source.attrs))


def _rows_per_shard(source: Schema, dtype: str) -> int:
    """As for a new store of this type, unless the source's was somebody's choice."""
    others = max((f.row_bytes for f in source.user_fields.values()), default=0)
    old, new = (max(f.row_bytes, others) for f in (source.vectors, replace(source.vectors, dtype=dtype)))
    chosen = source.rows_per_shard != default_rows_per_shard(old)
    return source.rows_per_shard if chosen and source.rows_per_shard * new <= MAX_SHARD_BYTES else default_rows_per_shard(new)


@dataclass
class Making:
    """A store in the making: its record 0, the schema, the version that it is made from, and the lock that keeps other runs
    out. ``resumed``: another run began it. ``ended``: its last record, if that is there."""

    first: Record
    schema: Schema
    source: Record
    lock: Lock
    resumed: bool
    ended: Record | None = None

    @property
    def session(self) -> SessionInfo:
        """Every run is of the session that began the store."""
        return replace(self.first.session, host=socket.gethostname(), pid=os.getpid())


def begin(src: Log, dst: Log, wish: Wish, only_writer: bool) -> Making:
    """Begin the store, or go on with the one that is half made.

    AlreadyExists where something else is there, ValueError where that was asked for otherwise, Conflict while another run
    is at it."""
    check_apart(src.storage, dst.storage)
    if not dst.exists():
        check_place(dst, "x", "", only_writer)
        head = src.head()
        schema = wish.schema(src.schema_of(head))
        session = create_store(dst, schema, Request(secrets.token_hex(16)),
                               {"whole": 1, "source": {**head.mark, "order": wish.order}})
        if session is not None:
            return Making(session.opening, schema, head, session.lock, resumed=False)
    return _go_on(src, dst, wish, only_writer)


def _go_on(src: Log, dst: Log, wish: Wish, only_writer: bool) -> Making:
    first = dst.read(0)
    if not isinstance(first.extra.get("source"), dict) or not is_half_made(first):
        _refuse_place(dst)
    dst.storage.writable(only_writer)
    lock = _hold(dst)
    try:
        head = dst.head()
        if not is_half_made(head) and (head.version > 1 or not _same_source(src.head(), first)):
            _refuse_place(dst)
        making = Making(first, dst.schema_of(first), _source_of(src, dst, first), lock, resumed=True)
        _check_wish(wish, wish.schema(src.schema_of(making.source)), making, dst)
        making.ended = None if is_half_made(head) else head
        return making
    except BaseException:
        lock.release()
        raise


def _refuse_place(dst: Log) -> None:
    head = dst.head()
    raise AlreadyExists(f"{dst.storage.url} is a store already ({head.rows:,} rows, version {head.version}); compact makes a "
                        "new one: choose another path")


def _hold(dst: Log) -> Lock:
    """The lock on the life of the session. A dead run's is free at once locally, and soon on a distant storage."""
    storage, deadline = dst.storage, time.monotonic() + dst.storage.patience_s
    while True:
        try:
            guard = storage.try_exclusive_live(live_name(0))
        except Renewed:
            guard, deadline = None, 0.0
        if guard is not None:
            if not storage.distant:
                return guard        # for as long as the run takes
            guard.release()         # there a lock is nothing but a sign of life, and only a shared one gives it again
            return storage.share_live(live_name(0))
        if time.monotonic() > deadline:
            session = dst.read(0).session
            raise Conflict(f"{storage.url} is being made by another compact (begun by pid {session.pid} on {session.host}); "
                           "wait until it ends")
        time.sleep((0.01 + random.SystemRandom().random() * 0.025) * storage.patience_s)


def _same_source(record: Record, first: Record) -> bool:
    return all(first.extra["source"].get(key) == value for key, value in record.mark.items())


def _source_of(src: Log, dst: Log, first: Record) -> Record:
    """The version that the half-made store is made from, whatever the source is at now."""
    mark, head = first.extra["source"], src.head()
    if mark.get("store_id") != head.store_id:
        raise ValueError(f"{dst.storage.url} is being made from store {mark.get('store_id')}, not from {src.storage.url}, "
                         f"which is store {head.store_id}; name that one, or remove {dst.storage.url}")
    record = src.resolve(mark)
    check_deletes(src, dst, record)
    return record


def check_deletes(src: Log, dst: Log, record: Record) -> None:
    """Conflict where rows of the source were deleted since this version: they are gone for good, and no copy of them may
    come to light."""
    head = src.head()
    if head.deletes != record.deletes:
        raise Conflict(f"rows of {src.storage.url} were deleted (version {head.deletes}) since {dst.storage.url} was begun "
                       f"from version {record.version}, and would be in it; remove it and compact again")


def _check_wish(wish: Wish, wanted: Schema, making: Making, dst: Log) -> None:
    begun = making.schema
    for option, asked, held in (("codec", wanted.codec, begun.codec), ("dtype", wanted.vectors.dtype, begun.vectors.dtype),
                                ("order", wish.order, making.first.extra["source"].get("order"))):
        if asked != held:
            raise ValueError(f"{option}={asked!r} differs from {option}={held!r}, with which {dst.storage.url} was begun; ask "
                             "for the same, or remove it")


def check_apart(src: Storage, dst: Storage) -> None:
    """ValueError where the new store would lie in the old one."""
    old, new = _place(src.url), _place(dst.url)
    if new == old or new.startswith(old + "/"):
        raise ValueError(f"{dst.url} is {'the source itself' if new == old else 'inside of the source'}; compact makes a new "
                         "store: choose another path")


def _place(url: str) -> str:
    return url.rstrip("/") if "://" in url else os.path.realpath(url)
