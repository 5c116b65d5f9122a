"""Deleting is final: the keys that a commit deleted stay away from every later version, whatever that rolls back to.

The record of a delete leaves their rows out. An older version still names them, so an opening that goes back to it
follows the chain of deletes from head, newest first, and takes away what each deleted since.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from zstore._typing import Array, Int64s
from zstore.cache import Cache
from zstore.commits.log import Log
from zstore.errors import Corrupt
from zstore.format.deletes import Deletes, Keys, deletes_id, deletes_parts, parse_deletes, parse_id
from zstore.format.extents import Extents
from zstore.format.layout import DELETES, deletes_name
from zstore.format.record import Record
from zstore.format.run import Entries
from zstore.format.schema import EPOCH, IDS
from zstore.index import KeyIndex
from zstore.mapping import Column

CACHE_BYTES = 2**22


def surviving(log: Log, head: Record, target: Record) -> Record:
    """``target`` without the rows that were deleted between it and ``head``; itself where none were.

    Corrupt where a list of deleted keys can't be read: what it deleted must not come back."""
    later = list(chain(log, head, since=target.version))
    if not later:
        return target
    index, gone = index_of(log, target), Extents()
    for deletes in later:
        gone = gone | matching(index, deletes.keys, deletes.length)
    return _without(target, gone)


def write_deletes(log: Log, head: Record, record: Record, keys: Keys) -> Record:
    """The opening ``record`` after ``head`` without the rows of these keys. The object that names the keys is durable
    when it returns; a record that loses its number leaves it as litter, under a name that nobody else uses."""
    storage, schema = log.storage, log.schema_of(head)
    previous = newest(log, head)
    deletes = Deletes(record.store_id, record.version, record.commit_id, head.length, previous, schema.ids_are_strings, keys)
    text = deletes_id(record.version, record.commit_id)
    storage.make_folders([DELETES])
    storage.replace(storage.draft(deletes_parts(deletes), f"{record.session.opened:020d}"), deletes_name(text))
    storage.sync([DELETES])
    gone = matching(index_of(log, record), keys, head.length)
    return replace(_without(record, gone), deletes=record.version)


def chain(log: Log, head: Record, since: int = -1) -> Iterator[Deletes]:
    """What was deleted after version ``since`` and up to head, newest first. Corrupt where it can't be read."""
    text = newest(log, head) if head.deletes is not None and head.deletes > since else None
    while text is not None and (parse_id(text) or (since, ""))[0] > since:
        deletes = read_deletes(log, text, head.store_id)
        yield deletes
        text = deletes.previous


def newest(log: Log, head: Record) -> str | None:
    """The object of the newest commit that deleted, as its name's last part; None where none did."""
    if head.deletes is None:
        return None
    commit = head.commit_id if head.deletes == head.version else log.read(head.deletes).commit_id
    return deletes_id(head.deletes, commit)


def read_deletes(log: Log, text: str, store_id: str) -> Deletes:
    """One object; Corrupt where it is missing, damaged or another store's."""
    name = deletes_name(text)
    try:
        found = parse_deletes(log.storage.read(name), name)
    except FileNotFoundError:
        raise Corrupt(name, "the list of keys that this commit deleted is missing") from None
    if found.store_id != store_id:
        raise Corrupt(name, "the list of deleted keys is another store's", expected=store_id, actual=found.store_id)
    return found


def index_of(log: Log, record: Record) -> KeyIndex:
    """The key index of one version."""
    schema, cache = log.schema_of(record), Cache(CACHE_BYTES)
    ids, epochs = (Column(log.storage, schema, schema.fields[name], cache) for name in (IDS, EPOCH))
    ids.cover(record.extents)
    epochs.cover(record.extents)
    return KeyIndex(log.storage, schema, record.index, record.extents, ids, epochs)


def matching(index: KeyIndex, keys: Keys, length: int) -> Extents:
    """The addresses below ``length`` of every row of the index's version that has one of these keys, superseded ones too."""
    found = [_addresses(table.entries, keys) for _, table in index.tables()]
    addresses = np.unique(np.concatenate([np.zeros(0, np.int64), *found]))
    addresses = addresses[(addresses < length) & index.extents.contains(addresses)]
    return Extents.of_addresses(addresses)


def _without(record: Record, gone: Extents) -> Record:
    # How many of the rows that are left repeat a key would have to be counted again; where none did, none does.
    if not len(gone):
        return record
    return replace(record, extents=record.extents - gone, superseded=0 if record.superseded == 0 else None)


def _addresses(entries: Entries, keys: Keys) -> Int64s:
    """Of all entries with one of these keys: a bisection of all keys in step, then their spans laid end to end."""
    if not len(entries) or not len(keys):
        return np.zeros(0, np.int64)
    # Keys that differ in the check alone have one span: else a forged list could have it laid out any number of times.
    by = np.lexsort((keys.epoch, keys.key))
    key, epoch = keys.key[by], keys.epoch[by].astype(np.int64)
    first = np.append(True, (key[1:] != key[:-1]) | (epoch[1:] != epoch[:-1]))
    wanted = ((np.cumsum(first) - 1) << 32) | keys.check[by]
    key, epoch = key[first], epoch[first]
    low, high = np.searchsorted(entries.key, key, "left"), np.searchsorted(entries.key, key, "right")
    every = epoch < 0
    start = _first_at_or_above(entries.epoch, epoch, low, high)
    stop = _first_at_or_above(entries.epoch, epoch + 1, low, high)
    low, high = np.where(every, low, start), np.where(every, high, stop)
    counts = high - low
    which = np.repeat(np.arange(len(key)), counts)
    at = np.arange(len(which)) + (low - (np.cumsum(counts) - counts))[which]
    return np.asarray(entries.address[at][np.isin((which << 32) | entries.check[at], wanted)])


def _first_at_or_above(values: Array, wanted: Int64s, low: Int64s, high: Int64s) -> Int64s:
    """The first index in each ``[low, high)``, in which the values ascend, at or above what is wanted; else ``high``."""
    last = len(values) - 1
    while (open_ := low < high).any():
        middle = (low + high) >> 1
        below = open_ & (values[np.minimum(middle, last)] < wanted)
        low, high = np.where(below, middle + 1, low), np.where(open_ & ~below, middle, high)
    return low
