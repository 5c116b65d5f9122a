"""One run of the key index: read, checked, and kept nearer where the store is distant."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from zstore._typing import Buffer, Int64s
from zstore.errors import Corrupt
from zstore.format import keys as key_rules
from zstore.format import layout
from zstore.format.extents import Extents
from zstore.format.keys import StringIds
from zstore.format.run import END_BYTES, Entries, RunHeader, concat, open_run, parse_end, parse_run
from zstore.format.run_blocks import Blocks
from zstore.format.schema import Schema
from zstore.storage.base import Storage
from zstore.storage.chunk_cache import ChunkCache
from zstore.storage.ranges import at_once
from zstore.storage.whole import whole
from zstore.tables import Table

SCAN_ROWS = 1 << 17


class Readable(Protocol):
    """What the index asks of a column, where it must read the rows that no run covers."""

    def span(self, start: int, count: int) -> npt.NDArray[Any]: ...

    def string_ids(self, start: int, count: int) -> list[StringIds]: ...


class RunHead:
    """What a run covers. ``spans``: its epochs' spans, an array (k, 3) of (epoch, first address, count), or None where there
    are too many."""

    def __init__(self, header: RunHeader) -> None:
        self.header = header
        self.spans: Int64s | None = None if header.epochs is None else np.array(header.epochs, np.int64).reshape(-1, 3)


class RunFile(RunHead):
    """One readable run: its header, and its entries as a table (of views of the mapped file, locally)."""

    def __init__(self, header: RunHeader, entries: Entries, blocks: Blocks | None) -> None:
        super().__init__(header)
        epochs = None if header.epochs is None else frozenset(epoch for epoch, _, _ in header.epochs)
        self.table = Table(entries, epochs, blocks)


def read_run(storage: Storage, schema: Schema, name: str, kept: ChunkCache | None, check: bool, late: bool) -> RunFile:
    """The run of this name. ``late``: where it is a file, its columns are checked when they are looked at. OSError, ``Corrupt``
    too, where it can't be read or is another store's."""
    path = layout.run_name(name)
    header, entries, blocks = _parsed(storage, schema, name, kept, check, late)
    if header.store_id != schema.store_id or header.strings != schema.ids_are_strings:
        raise Corrupt(path, "the run belongs to another store")
    return RunFile(header, entries, blocks)


def read_head(storage: Storage, schema: Schema, name: str, kept: ChunkCache | None = None) -> RunHead | None:
    """What the run covers, of which only the end is read, or what is kept nearer. None where its header is not sealed by
    itself, or can't be read: the whole run then says more."""
    path = layout.run_name(name)
    near = None if kept is None else kept.get(_kept_as(schema, name))
    try:
        if near is not None:
            view = memoryview(near).cast("B")
            header, sealed = parse_end(lambda at, size: bytes(view[at:at + size]), len(view), path)
        else:
            handle = storage.open(path, END_BYTES)
            try:
                header, sealed = parse_end(handle.read, handle.size, path)
            finally:
                handle.close()
    except OSError:
        return None
    mine = header.store_id == schema.store_id and header.strings == schema.ids_are_strings
    return RunHead(header) if sealed and mine else None


class Heads:
    """What the runs of one version cover, as their ends say; those that ``previous`` has are not read again."""

    def __init__(self, storage: Storage, schema: Schema, names: tuple[str, ...], previous: Heads | None,
                 kept: ChunkCache | None = None) -> None:
        self._storage, self._schema, self._names, self._kept = storage, schema, names, kept
        self._heads: dict[str, RunHead | None] = {} if previous is None else {
            name: previous._heads[name] for name in names if name in previous._heads}
        self._looked, self._spans = False, cast("Int64s | None", None)

    def spans(self, extents: Extents, files: Mapping[str, RunFile | None]) -> Int64s | None:
        """The epochs' spans of all runs, looked for once; None unless all say where their epochs lie and together they cover
        these addresses. ``files``: runs that are read already."""
        if not self._looked:
            known = self._known(extents, files)
            self._spans = None if known is None else np.concatenate([np.zeros((0, 3), np.int64), *known])
            self._looked = True
        return self._spans

    def _known(self, extents: Extents, files: Mapping[str, RunFile | None]) -> list[Int64s] | None:
        lacking = [name for name in self._names if name not in files and name not in self._heads]
        if len(lacking) > 1 and self._storage.distant:
            at_once([partial(self._load, name) for name in lacking])
        heads = [files[name] if name in files else self._load(name) for name in self._names]
        known = [head for head in heads if head is not None]
        spans = [head.spans for head in known if head.spans is not None]
        if len(spans) < len(heads) or len(extents - Extents(pair for head in known for pair in head.header.extents)):
            return None
        return spans

    def _load(self, name: str) -> RunHead | None:
        if name not in self._heads:
            self._heads[name] = read_head(self._storage, self._schema, name, self._kept)
        return self._heads[name]


def _kept_as(schema: Schema, name: str) -> bytes:
    return f"run/{schema.store_id}/{name}".encode()     # no name is given to two runs


def _parsed(storage: Storage, schema: Schema, name: str, kept: ChunkCache | None, check: bool,
            late: bool) -> tuple[RunHeader, Entries, Blocks | None]:
    path = layout.run_name(name)
    if check and late and not storage.distant:
        return open_run(whole(storage, path), path)
    if kept is None:
        return *parse_run(whole(storage, path), path, check=check), None
    key = _kept_as(schema, name)
    near: Buffer | None = kept.get(key)
    if near is not None:
        with suppress(Corrupt):
            return *parse_run(near, path), None
    data = whole(storage, path)
    parsed = parse_run(data, path)
    kept.put([(key, data)])
    return *parsed, None


def scan(schema: Schema, ids: Readable, epochs: Readable, extents: Extents) -> Entries:
    """The entries of these rows, from their ids and epochs."""
    seed = key_rules.seed_of(schema.store_id)
    parts = []
    for first, count in extents:
        for start in range(first, first + count, SCAN_ROWS):
            rows = min(SCAN_ROWS, first + count - start)
            if schema.ids_are_strings:
                hashed = [key_rules.hash_strings(some, seed) for some in ids.string_ids(start, rows)]
                keys = np.concatenate([key for key, _ in hashed])
                checks = np.concatenate([check for _, check in hashed])
            else:
                keys = key_rules.hash_ints(ids.span(start, rows))
                checks = np.zeros(rows, np.uint32)
            parts.append(Entries(keys, checks, epochs.span(start, rows), np.arange(start, start + rows)))
    return concat(parts).sorted()
