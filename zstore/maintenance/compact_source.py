"""What compact reads: the columns of one version, every byte checked before it is copied."""

from __future__ import annotations

import numpy as np

from zstore._typing import Array
from zstore.cache import Cache
from zstore.format.record import Record
from zstore.format.schema import Schema
from zstore.mapping import Column
from zstore.rows import Rows
from zstore.shards.read import open_shard
from zstore.storage.base import Storage

CACHE_BYTES = 2**26         # decoded chunks, for rows that are gathered out of order


class Source:
    """One version of a store, to be read. ``distinct``: no key comes twice, which the record knows. Safe among threads."""

    def __init__(self, storage: Storage, schema: Schema, record: Record) -> None:
        self.schema, self.extents, self.distinct = schema, record.extents, record.superseded == 0
        self._storage = storage
        cache = Cache(CACHE_BYTES)
        self.columns = {name: Column(storage, schema, f, cache) for name, f in schema.fields.items()}
        for column in self.columns.values():
            column.cover(record.extents)
        self._checked: set[tuple[str, int]] = set()

    def gather(self, name: str, rows: Rows) -> Array:
        """A field at these rows, in their order; a view where they are one run of a mapping, else new. Corrupt where a
        check fails."""
        column = self.columns[name]
        self._check(column, rows)
        run = rows.one_run()
        if rows.extents is None:
            return column.take(rows.addresses())
        if run is not None and not column.field.is_string:
            mapped = column.run(*run)
            return column.span(*run) if mapped is None else mapped
        values = column.empty(len(rows))
        for (start, count), at in zip(rows.extents, rows.extents.offsets.tolist(), strict=False):
            values[at:at + count] = column.span(start, count)
        return values

    def _check(self, column: Column, rows: Rows) -> None:
        """Decoded chunks are checked as they are decoded. Mapped ones are not, and damage that is copied under a new
        checksum is damage that nobody finds any more."""
        if not self.schema.is_mappable(column.field):
            return
        for shard in np.unique(rows.addresses() // self.schema.rows_per_shard).tolist():
            if (column.field.path, shard) not in self._checked:
                file = open_shard(self._storage, self.schema, column.field, shard)
                try:
                    file.verify()
                finally:
                    file.close()
                self._checked.add((column.field.path, shard))
