"""Deleting: an opening commit without the rows of some keys, which no later version brings back."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from zstore.commits.history import Commit
from zstore.commits.log import Log
from zstore.commits.opening import Request
from zstore.commits.whole import check_whole
from zstore.format import keys as key_rules
from zstore.format.deletes import EVERY_EPOCH, Keys
from zstore.format.keys import StringIds
from zstore.format.record import Record
from zstore.format.schema import Schema
from zstore.ids import is_one, normalise_ids, one_id
from zstore.maintenance.opening import open_once
from zstore.notices import warn
from zstore.storage import open_storage

MAX_EPOCH = 2**31 - 1
MANY_EXTENTS = 10_000       # above it every commit pays for the holes


def delete(url: str | os.PathLike[str], ids: Any, *, epoch: Any = None, only_writer: bool = False,
           storage_options: Mapping[str, Any] | None = None) -> Commit:
    """Hide every row of these ids, at once and for good, as a new version, and give its Commit.

    ``ids`` is one id or (n,) ids, as ``Reader.find`` takes them. ``epoch`` None: all their epochs; an int, or one per id:
    only those keys. Rows that are appended under these keys later count again.

    Atomic and durable. A rollback to an older version leaves these rows out too, also of keys that head does not hold; ids
    that the store never had are recorded and hide nothing. No ids: nothing is published, and head's Commit given. Bytes
    stay, and so do the rows of older versions, until ``compact`` writes a new store. ``only_writer``: nobody else writes, for
    storages that can't make sure of it. Raises TypeError and ValueError for what is no id of this store, Conflict while a
    writer lives, StoreNotFound, Corrupt."""
    commit, hidden, runs = hide(url, ids, epoch, storage_options, only_writer)
    if hidden:
        many = (f"; head has {runs:,} runs of rows by now, which every commit writes out: `compact` makes them one"
                if runs > MANY_EXTENTS else "")
        warn(f"version {commit.version} has {hidden:,} rows less: they are deleted. Older versions show them, and their bytes "
             f"stay, until `compact` writes a new store{many}")
    return commit


def hide(url: str | os.PathLike[str], ids: Any, epoch: Any, storage_options: Mapping[str, Any] | None,
         only_writer: bool = False) -> tuple[Commit, int, int]:
    """``delete`` without its notice: the Commit, how many rows of the version before are hidden, how many extents are left."""
    log = Log(open_storage(url, storage_options))
    head = log.head()
    check_whole(log, head)
    keys = keys_of(log.schema_of(head), ids, epoch)
    if not len(keys):
        return Commit.of(head), 0, len(head.extents.starts)
    opening: Record = open_once(log, Request(secrets.token_hex(16), keep_tail=True, deletes=keys), only_writer)
    before = log.read(opening.version - 1)
    return Commit.of(opening), before.rows - opening.rows, len(opening.extents.starts)


def keys_of(schema: Schema, ids: Any, epoch: Any) -> Keys:
    """The keys that are meant, hashed as this store does, each once. One id may have several epochs; several ids have none,
    one, or one each."""
    single = is_one(ids)
    if single:
        ids = [one_id(ids, schema.ids_are_strings)]
    items = normalise_ids(ids, schema.ids_are_strings)
    if isinstance(items, StringIds):
        key, check = key_rules.hash_strings(items, key_rules.seed_of(schema.store_id))
    else:
        key, check = key_rules.hash_ints(items), np.zeros(len(items), np.uint32)
    epochs = _epochs(epoch)
    if single and epochs.ndim:
        key, check = np.repeat(key, len(epochs)), np.repeat(check, len(epochs))
    if epochs.ndim and len(epochs) != len(key):
        raise ValueError(f"there are {len(key)} ids and {len(epochs)} epochs; give one epoch, one per id, or none for all")
    return Keys(key, check, np.broadcast_to(epochs, key.shape)).distinct()


def _epochs(epoch: Any) -> npt.NDArray[np.int32]:
    """() or (n,); -1 for every epoch."""
    if epoch is None:
        return np.array(EVERY_EPOCH, np.int32)
    array = np.asarray(list(epoch) if isinstance(epoch, range) else epoch)
    if array.ndim > 1 or (array.size and array.dtype.kind not in "iu"):
        raise TypeError(f"epoch is None, one int or one int per id, not {epoch!r:.200}")
    if array.size and (int(array.min()) < 0 or int(array.max()) > MAX_EPOCH):
        raise ValueError(f"an epoch is an integer from 0 to {MAX_EPOCH}, not {int(array.min())}..{int(array.max())}")
    return array.astype(np.int32)
