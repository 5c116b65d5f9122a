"""Blocks: the buffers that `append` copies into. A block is the fewest rows that are whole chunks of every field."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from zstore._typing import Array, Int64s
from zstore.format.keys import Joined, StringIds, concat_strings, pack_joined
from zstore.format.schema import Schema
from zstore.storage.pages import private_pages
from zstore.writing.door import Batch

QUICK_BYTES = 2**20         # copied within 0.1 ms


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


# (at, start, stop, others): rows [start, stop) of a batch, whose place begins at the block's row ``at``, as far as they
# never change. A plain tuple: one is made for each batch, while the training thread waits.
Piece: TypeAlias = tuple[int, int, int, dict[str, Any]]


class Block:
    """``rows`` rows of every field, of which the first ``filled`` count, and the first ``noted`` have their addresses.
    Memory is reused from block to block.

    Two threads meet here: one writes rows behind those that count, the other reads those that do. The caller's arrays are
    copied by the one, at once. Strings and scalars, which nobody changes, wait as pieces for the other."""

    def __init__(self, schema: Schema, rows: int) -> None:
        self.rows = rows
        self.filled = self.noted = 0
        self.ends = False                   # its shard ends with it, full or not
        self.first = 0                      # how many rows its writer had appended before this block's
        self._columns: dict[str, tuple[Any, int, Array]] = {}      # its pages, bytes of a row, the pages as an array
        self._strings: dict[str, StringColumn] = {}
        self._pieces: list[Piece] = []
        for name, f in schema.fields.items():
            if f.is_string:
                self._strings[name] = StringColumn(rows)
            else:
                pages = private_pages(rows * f.row_bytes)
                memory = np.frombuffer(pages, np.uint8)[:rows * f.row_bytes]
                memory.fill(0)          # its pages are there before a training thread writes to them
                self._columns[name] = pages, f.row_bytes, memory.view(f.numpy_dtype).reshape(rows, *f.shape)

    def clear(self) -> None:
        """Empty: to be filled again."""
        self.filled = self.noted = 0
        self.ends = False
        self._pieces.clear()

    def write(self, at: int, batch: Batch, start: int, stop: int) -> None:
        """Copy rows ``[start, stop)`` of the batch to row ``at``; they count only when ``filled`` is raised."""
        end = at + stop - start
        while self._pieces and self._pieces[-1][0] >= at:       # of a write that was interrupted: its rows do not count
            self._pieces.pop()
        for name, value in batch.arrays.items():
            rows = value if stop - start == batch.rows else value[start:stop]
            pages, row_bytes, array = self._columns[name]
            if (end - at) * row_bytes <= QUICK_BYTES and rows.dtype is array.dtype and rows.flags.c_contiguous:
                # numpy lets go of the interpreter lock while it copies, and then waits for whoever took it meanwhile.
                pages[at * row_bytes:end * row_bytes] = rows
            else:
                array[at:end] = rows
        if batch.others:
            self._pieces.append((at, start, stop, batch.others))

    def column(self, name: str, start: int, stop: int) -> Any:
        """Rows ``[start, stop)``: a view of an array, a copy of strings."""
        self._settle(stop)
        if name in self._strings:
            return self._strings[name].view(start, stop)
        return self._columns[name][2][start:stop]

    def _settle(self, upto: int) -> None:
        """Put the pieces of the rows before ``upto``, all of which count, into their columns, in bulk."""
        pieces = [piece for piece in self._pieces.copy() if piece[0] < upto]      # `write` may add and take back behind them
        for run in _runs(pieces):
            for name, column in self._strings.items():
                column.write(run[0][0], _packed(run, name))
            for at, start, stop, others in run:
                for name in others.keys() - self._strings.keys():
                    self._columns[name][2][at:at + stop - start] = others[name]
        del self._pieces[:len(pieces)]      # only now: where memory ends above, they are put into their places again

    def restore(self, name: str, at: int, rows: Any) -> None:
        """Put back rows of a shard that is being taken over."""
        if name in self._strings:
            # Nothing before them is asked for again: an empty head keeps the column's bytes without a gap.
            self._strings[name].restore(at, rows)
        else:
            self._columns[name][2][at:at + len(rows)] = rows


def _runs(pieces: list[Piece]) -> list[list[Piece]]:
    """Neighbours that follow each other without a gap."""
    runs: list[list[Piece]] = []
    end = -1
    for piece in pieces:
        at, start, stop, _ = piece
        if at == end:
            runs[-1].append(piece)
        else:
            runs.append([piece])
        end = at + stop - start
    return runs


def _packed(run: list[Piece], name: str) -> StringIds:
    """The strings of consecutive pieces: packed all at once, but for those of a batch that lies in several blocks."""
    parts: list[Joined] = [others[name] for _, _, _, others in run]
    if all(stop - start == part.rows for (_, start, stop, _), part in zip(run, parts, strict=True)):
        return pack_joined(parts)
    return concat_strings([part.packed.slice(start, stop) for (_, start, stop, _), part in zip(run, parts, strict=True)])
