"""Blocks: the buffers that `append` copies into. A block is the fewest rows that are whole chunks of every field."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from zstore._typing import Array, Int64s
from zstore.format.keys import StringIds
from zstore.format.schema import Schema
from zstore.storage.pages import private
from zstore.writing.door import Batch


def block_rows(schema: Schema) -> int:
    """Rows of a block; a divisor of the shard's rows."""
    return math.lcm(*(f.chunk_rows for f in schema.fields.values()))


class StringColumn:
    """Packed strings that grow in place."""

    def __init__(self, rows: int) -> None:
        self._body = bytearray()
        self._starts: Int64s = np.zeros(rows, np.int64)
        self._lengths: Int64s = np.zeros(rows, np.int64)

    def write(self, at: int, piece: StringIds) -> None:
        """Put the piece behind the ``at`` strings that count; what a failed write left behind them is cut off."""
        end = int(self._starts[at - 1] + self._lengths[at - 1]) if at else 0
        del self._body[end:]
        self._body += piece.body
        self._starts[at:at + len(piece)] = piece.starts + end
        self._lengths[at:at + len(piece)] = piece.lengths

    def restore(self, at: int, piece: StringIds) -> None:
        """Put the piece at row ``at``, with nothing in front of it."""
        self._starts[:at] = 0
        self._lengths[:at] = 0
        self._body = bytearray(piece.body)
        self._starts[at:at + len(piece)] = piece.starts
        self._lengths[at:at + len(piece)] = piece.lengths

    def view(self, start: int, stop: int) -> StringIds:
        """Strings ``[start, stop)``; a copy."""
        if start >= stop:
            return StringIds(b"", self._starts[:0], self._lengths[:0])
        low = int(self._starts[start]) - 4
        high = int(self._starts[stop - 1] + self._lengths[stop - 1])
        return StringIds(bytes(self._body[low:high]), self._starts[start:stop] - low, self._lengths[start:stop].copy())


class Block:
    """``rows`` rows of every field, of which the first ``filled`` count, and the first ``noted`` have their addresses.
    Memory is reused from block to block."""

    def __init__(self, schema: Schema, rows: int) -> None:
        self.rows = rows
        self.filled = self.noted = 0
        self.ends = False                   # its shard ends with it, full or not
        self.first = 0                      # how many rows its writer had appended before this block's
        self._arrays: dict[str, Array] = {}
        self._strings: dict[str, StringColumn] = {}
        for name, f in schema.fields.items():
            if f.is_string:
                self._strings[name] = StringColumn(rows)
            else:
                memory = private(rows * f.row_bytes)
                self._arrays[name] = memory.view(f.numpy_dtype).reshape(rows, *f.shape)

    def write(self, at: int, batch: Batch, start: int, stop: int) -> None:
        """Copy rows ``[start, stop)`` of the batch to row ``at``; they count only when ``filled`` is raised."""
        end = at + stop - start
        for name, array in self._arrays.items():
            value = batch.columns[name]
            array[at:end] = value[start:stop] if getattr(value, "ndim", 0) else value
        for name, column in self._strings.items():
            column.write(at, batch.columns[name].slice(start, stop))

    def column(self, name: str, start: int, stop: int) -> Any:
        """Rows ``[start, stop)``: a view of an array, a copy of strings."""
        if name in self._strings:
            return self._strings[name].view(start, stop)
        return self._arrays[name][start:stop]

    def restore(self, name: str, at: int, rows: Any) -> None:
        """Put back rows of a shard that is being taken over."""
        if name in self._strings:
            # Nothing before them is asked for again: an empty head keeps the column's bytes without a gap.
            self._strings[name].restore(at, rows)
        else:
            self._arrays[name][at:at + len(rows)] = rows
