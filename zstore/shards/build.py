"""Building one shard object: chunks in row order, append-only inside, so that an index published before stays true.

A fixed-width ``raw`` chunk has its place by its number: a fuller chunk takes the same place, padded with the fill. Everything
else grows at the end: a partial chunk that a fuller one supersedes stays where it was, as dead bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from zstore._typing import Array, Buffer
from zstore.errors import Corrupt
from zstore.format.checksum import crc32c
from zstore.format.keys import StringIds
from zstore.format.schema import Field, Schema
from zstore.format.trailer import EMPTY, ShardEnd, body_checksum, seal_places
from zstore.shards.pieces import PIECE, Pieces

Rows = Array | StringIds
ROUND = 2**21           # bytes of rows that are encoded before they are copied to their pieces


class FieldBody:
    """The bytes of one field of the shard under construction. Not thread-safe.

    Raw rows are held by reference; encoded chunks are copied into borrowed pieces of memory, until ``free``."""

    def __init__(self, schema: Schema, field: Field, pieces: Pieces | None = None) -> None:
        self.field = field
        self.dead_bytes = 0
        self._codec = schema.chunk_codec(field)
        self._chunks = schema.chunks(field)
        self._raw: list[Buffer] = []
        self._lender = pieces or Pieces()
        self._pieces: list[memoryview] = []
        self._ends = np.zeros((0 if self._codec.fixed else self._chunks, 4), np.uint8)      # of each chunk, its last bytes
        self._size = 0
        self._crc = self._crc_size = 0          # the checksum of that many leading bytes
        self._offsets = np.full(self._chunks, EMPTY, np.uint64)
        self._lengths = np.full(self._chunks, EMPTY, np.uint64)
        self._crcs = np.zeros(self._chunks if self._codec.fixed else 0, np.uint32)

    def add(self, row: int, rows: Rows, count: int) -> None:
        """Append whole chunks: rows ``[row, row + count)`` of the shard, both multiples of the chunk's rows. Kept by
        reference until the shard is written where the codec is raw."""
        step = self.field.chunk_rows
        if self._codec.fixed:
            assert isinstance(rows, np.ndarray)
            data = _bytes_of(rows[:count])
            self._place(row, data, count)
            self._hold(data)
        elif isinstance(rows, np.ndarray) and self._codec.compresses:
            self._append_chunks(row // step, np.frombuffer(_bytes_of(rows[:count]), np.uint8))
        else:
            for at in range(0, count, step):
                self._append_chunk((row + at) // step, self._encode(rows, at, at + step))

    def add_partial(self, row: int, rows: Rows, count: int) -> list[Buffer]:
        """The last chunk, of which ``count`` rows exist so far. Returns what must stand behind the body in the file; a
        raw chunk is not kept, every other one is from now on part of the body."""
        if count == 0:
            return []
        if not self._codec.fixed:
            self._append_chunk(row // self.field.chunk_rows, self._encode(rows, 0, count))
            return []
        assert isinstance(rows, np.ndarray)
        data = _bytes_of(rows[:count])
        self._place(row, data, count)
        padding = np.full((self.field.chunk_rows - count, *self.field.shape), self.field.fill, self.field.numpy_dtype)
        return [data, _bytes_of(padding)]

    def finish(self, rows: int, store_id: str, session: str, shard: int, behind: list[Buffer]) -> list[Buffer]:
        """All parts of the object, from the first byte to the last, for ``rows`` covered rows."""
        if not self._codec.fixed:
            for piece in self._encoded(self._crc_size):
                self._crc = crc32c(piece, self._crc)
            self._crc_size = self._size
        size, crc = self._size, self._crc
        if not self._codec.fixed:
            crc = crc32c(self._ends[self._offsets != EMPTY].data, crc)      # see ``seal_places``
        for part in behind:
            size, crc = size + len(part), crc32c(part, crc)
        end = ShardEnd(store_id, session, self.field.path, shard, rows, size, crc, self._offsets, self._lengths, self._crcs)
        return [*self.parts(), *behind, end.to_bytes()]

    def parts(self) -> list[Buffer]:
        """The body so far. These bytes are final: every later object begins with them."""
        return list(self._raw) if self._codec.fixed else list(self._encoded(0))

    def free(self) -> None:
        """Give the memory back. The body, and every part that it gave, is of no use from here on."""
        self._lender.give_back(self._pieces)
        self._pieces, self._raw = [], []

    def resume(self, body: bytes, end: ShardEnd, name: str) -> None:
        """Go on where another writer handed over: its body is copied verbatim. ``Corrupt`` if it fails its checksum."""
        actual = body_checksum(body, end)
        if actual != end.body_crc:
            raise Corrupt(name, "the shard's body fails its CRC32C", expected=f"{end.body_crc:08x}", actual=f"{actual:08x}")
        if self._codec.fixed:
            whole = end.rows // self.field.chunk_rows * self.field.chunk_rows
            data = memoryview(body)[:whole * self.field.row_bytes]
            self._place(0, data, whole)
            self._hold(data)
        else:
            self._offsets[:], self._lengths[:] = end.offsets, end.lengths
            places = seal_places(end.offsets, end.lengths)
            self._ends[end.offsets != EMPTY] = np.frombuffer(body, np.uint8)[places].reshape(-1, 4)
            self._copy(body)
            self.dead_bytes = len(body) - int(end.lengths[end.offsets != EMPTY].sum())

    def _hold(self, data: Buffer) -> None:
        if len(data):
            self._raw.append(data)
            self._size += len(data)
            self._crc = crc32c(data, self._crc)

    def _copy(self, data: Buffer) -> None:
        view = memoryview(data)
        while view:
            at = self._size % PIECE
            if at == 0:
                self._pieces.append(self._lender.take())
            count = min(PIECE - at, len(view))
            self._pieces[-1][at:at + count] = view[:count]
            self._size += count
            view = view[count:]

    def _encoded(self, start: int) -> Iterator[memoryview]:
        """The encoded chunks from byte ``start`` on, piece by piece."""
        for number in range(start // PIECE, len(self._pieces)):
            first = number * PIECE
            yield self._pieces[number][max(start - first, 0):self._size - first]

    def _append_chunks(self, chunk: int, rows: Array) -> None:
        # All chunks of a block into memory that is used again: a bytes object for each costs as much again as its codec.
        size = self.field.chunk_rows * self.field.row_bytes
        most = max(ROUND // size, 1) * size
        for start in range(0, len(rows), most):
            some = rows[start:start + most]
            data = self._lender.scratch(len(some) // size * self._codec.room(size))
            encoded = self._codec.encode_run(some, size, data)
            chunks, lengths = slice(chunk, chunk + len(encoded)), np.array(encoded)
            ends = np.cumsum(lengths)
            superseded = self._offsets[chunks] != EMPTY
            self.dead_bytes += int(self._lengths[chunks][superseded].sum())
            self._offsets[chunks], self._lengths[chunks] = self._size + ends - lengths, lengths
            self._ends[chunks] = data[ends[:, None] + np.arange(-4, 0)]
            self._copy(data[:ends[-1]].data)
            chunk += len(encoded)

    def _append_chunk(self, chunk: int, data: bytes) -> None:
        if self._offsets[chunk] != EMPTY:
            self.dead_bytes += int(self._lengths[chunk])
        self._offsets[chunk], self._lengths[chunk] = self._size, len(data)
        self._ends[chunk] = np.frombuffer(data, np.uint8, 4, len(data) - 4)
        self._copy(data)

    def _place(self, row: int, data: Buffer, count: int) -> None:
        """Offsets and the covered rows' CRC of raw chunks that begin at ``row``."""
        step, row_bytes = self.field.chunk_rows, self.field.row_bytes
        view, first, size = memoryview(data), row // step, step * row_bytes
        last = first + -(-count // step)
        self._offsets[first:last] = np.arange(first, last, dtype=np.uint64) * np.uint64(size)
        self._lengths[first:last] = size
        self._crcs[first:last] = [crc32c(view[at:at + size]) for at in range(0, count * row_bytes, size)]

    def _encode(self, rows: Rows, start: int, stop: int) -> bytes:
        step = self.field.chunk_rows
        if isinstance(rows, StringIds):
            stop = min(stop, len(rows))
            missing = step - (stop - start)
            text = string_items(self.field.fill, missing)
            return self._codec.encode(struct.pack("<I", step) + rows.slice(start, stop).body + text)
        chunk = rows[start:stop]
        if stop - start < step:
            padded = np.full((step, *self.field.shape), self.field.fill, self.field.numpy_dtype)
            padded[:stop - start] = chunk
            chunk = padded
        return self._codec.encode(_bytes_of(chunk))


def string_items(value: str, count: int) -> bytes:
    """``count`` vlen-utf8 items of one value."""
    data = value.encode()
    return (struct.pack("<I", len(data)) + data) * count


def _bytes_of(rows: Array) -> memoryview:
    # Through uint8: bfloat16 has no buffer protocol of its own.
    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
