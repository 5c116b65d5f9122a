"""One run of the key index: read, checked, and kept nearer where the store is distant."""

from __future__ import annotations

from contextlib import suppress

from zstore._typing import Buffer
from zstore.errors import Corrupt
from zstore.format import layout
from zstore.format.run import Entries, RunHeader, parse_run
from zstore.format.schema import Schema
from zstore.storage.base import Storage
from zstore.storage.chunk_cache import ChunkCache
from zstore.storage.whole import whole
from zstore.tables import Table


class RunFile:
    """One readable run: its header, and its entries as a table (of views of the mapped file, locally)."""

    def __init__(self, header: RunHeader, entries: Entries) -> None:
        self.header = header
        epochs = None if header.epochs is None else frozenset(epoch for epoch, _, _ in header.epochs)
        self.table = Table(entries, epochs)


def read_run(storage: Storage, schema: Schema, name: str, kept: ChunkCache | None, check: bool) -> RunFile:
    """The run of this name. OSError, ``Corrupt`` too, where it can't be read or is another store's."""
    path = layout.run_name(name)
    header, entries = _parsed(storage, schema, name, kept, check)
    if header.store_id != schema.store_id or header.strings != schema.ids_are_strings:
        raise Corrupt(path, "the run belongs to another store")
    return RunFile(header, entries)


def _parsed(storage: Storage, schema: Schema, name: str, kept: ChunkCache | None, check: bool) -> tuple[RunHeader, Entries]:
    path = layout.run_name(name)
    if kept is None:
        return parse_run(whole(storage, path), path, check=check)
    key = f"run/{schema.store_id}/{name}".encode()      # no name is given to two runs
    near: Buffer | None = kept.get(key)
    if near is not None:
        with suppress(Corrupt):
            return parse_run(near, path)
    data = whole(storage, path)
    parsed = parse_run(data, path)
    kept.put([(key, data)])
    return parsed
