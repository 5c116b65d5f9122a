"""Compacting: a new store of the rows that count, and nothing else."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from zstore.commits.history import Commit
from zstore.commits.log import Log
from zstore.commits.projection import project
from zstore.commits.publish import create_record
from zstore.commits.whole import check_whole
from zstore.errors import ZStoreError
from zstore.format.extents import Extents
from zstore.format.layout import CLAIMS, INDEX
from zstore.format.record import Record
from zstore.maintenance.compact_order import plan_rows
from zstore.maintenance.compact_place import Making, Wish, begin, check_deletes
from zstore.maintenance.compact_source import Source
from zstore.maintenance.compact_write import ShardMaker, Written
from zstore.notices import warn
from zstore.storage import open_storage


def compact(src: str | os.PathLike[str], dst: str | os.PathLike[str], *, codec: str | None = None, dtype: Any = None,
            order: str | None = None, only_writer: bool = False, src_options: Mapping[str, Any] | None = None,
            dst_options: Mapping[str, Any] | None = None,
            progress: Callable[[int, int], None] | None = None) -> Commit:
    """Make a new store at ``dst`` of the rows of ``src``'s head, one per key, and give its Commit.

    What head does not count is not in it, in no byte: holes, cut, deleted and superseded rows, older versions. Fields,
    attributes and the kind of ids stay; ``codec`` and the vectors' ``dtype`` are as asked, or as they were. ``order``: None
    keeps the rows' order, "epoch" is by epoch and then id, "id" by id and then epoch; ids in the order of integers, or of
    their UTF-8 bytes. The rows are one extent from address 0. ``src`` may be written meanwhile: its head at the start is
    read, and no session opened.

    ``dst`` is no store to anybody until it is whole: then it appears at once, and is durable. When this ends early, call it
    again with the same arguments: it goes on with the version where it began, and keeps the shards that are finished. Memory: a
    few shards, 64 MiB of decoded chunks, and for an order (or where superseded rows are dropped) about 40 MiB, more only where
    a single id has more than a quarter of a million epochs; above 134 million rows it grows too, by about 240 MB at
    1,000 million, and more where string ids are long. Temporary files of about 40 bytes a row then lie where TMPDIR says.

    ``progress`` is told how many rows are there, of how many. ``only_writer``: nobody else writes at ``dst``, for storages
    that can't make sure of it. Raises StoreNotFound; AlreadyExists when something else is at ``dst``; Conflict while another
    run makes it, or when rows of ``src`` were deleted since it was begun; ValueError for ``dst`` within ``src``, other options
    than those it was begun with, and a vector that overflows ``dtype``; TypeError for floats to integers; Corrupt."""
    wish = Wish.parse(codec, dtype, order)
    source = Log(open_storage(src, src_options, called="src_options"))
    target = Log(open_storage(dst, dst_options, called="dst_options"))
    check_whole(source, source.head())
    making = begin(source, target, wish, only_writer)
    try:
        record = making.ended or _make(source, target, making, progress)
        failure = _project(target, making)
    finally:
        making.lock.release()
    now = source.head()
    if now.deletes != making.source.deletes:
        warn(f"rows of {source.storage.url} were deleted (version {now.deletes}) as {target.storage.url} became a store, and "
             f"ARE IN IT; delete them there too, or remove {target.storage.url} and compact again")
    if failure:
        warn(failure)
    if making.resumed and now.version != making.source.version:
        warn(f"{target.storage.url} holds version {making.source.version} of {source.storage.url}, where it was begun; that is "
             f"at version {now.version} by now")
    return Commit.of(record)


def _make(src: Log, dst: Log, making: Making, progress: Callable[[int, int], None] | None) -> Record:
    """Shards and index, then the record that makes them a store."""
    storage, schema = dst.storage, making.schema
    source = Source(src.storage, src.schema_of(making.source), making.source)
    paths = [f.path for f in schema.fields.values()]
    storage.make_folders(paths)
    order = making.first.extra["source"].get("order")
    plan = plan_rows(source, order)
    maker = ShardMaker(storage, schema, making.session, source, plan, making.resumed)
    written = maker.write_all(progress)
    storage.sync([*paths, CLAIMS, INDEX])
    record = _last_record(making, len(plan), maker.shards, written)
    check_deletes(src, dst, making.source)      # as late as can be: what is deleted from here on, compact can only tell of
    if create_record(storage, record):
        return record
    return dst.read(1)          # by a run that took this one for dead; it made the same


def _last_record(making: Making, rows: int, shards: int, written: Written) -> Record:
    first = making.first
    tail = shards - 1 if rows % making.schema.rows_per_shard else None
    return Record(first.store_id, 1, secrets.token_hex(16), first.commit_id, making.session, time.time(), 0,
                  Extents([(0, rows)]), rows, shards, tail, written.runs, new_rows=rows, nonfinite=written.nonfinite)


def _project(dst: Log, making: Making) -> str:
    """Zarr's documents; what went wrong, in words. The rows are committed already."""
    try:
        project(dst, f"{making.session.opened:020d}")
        return ""
    except (OSError, ZStoreError) as error:
        return (f"{dst.storage.url}: the store is whole, but Zarr's documents could not be written ({error}); run `zstore "
                "verify --repair`, or compact again")
