"""Reading one shard object: its end, its chunks, its body.

A tail is rewritten while we read: each rewrite is a new object, and every index ever published stays valid against
every later one. So a handle that cannot pin (a remote one) may bring bytes of two generations into one check. A reader that
fails a check of a shard that was not full therefore begins again once, from the suffix, before it says ``Corrupt``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numcodecs.vlen import VLenUTF8

from zstore._typing import Array, Int64s
from zstore.errors import Corrupt
from zstore.format import layout
from zstore.format.checksum import crc32c
from zstore.format.keys import MAX_ID_BYTES, StringIds, parse_strings
from zstore.format.schema import IDS, MAX_STRING_BYTES, Field, Schema
from zstore.format.trailer import EMPTY, ShardEnd, body_checksum, end_bytes, identify, parse_end
from zstore.shards.batch import decode_batches, read_plain
from zstore.storage.base import Handle, Storage

T = TypeVar("T")
MISSING = "a shard that committed rows need is missing"
_TEXT = np.dtypes.StringDType()


class Stored(NamedTuple):
    """A chunk's stored bytes, brought ahead of their use, and the end of the shard by which they were found. They count
    while the shard has that very end."""

    end: ShardEnd
    data: bytes


class Place(NamedTuple):
    """Where a chunk's stored bytes lie, by one end of the shard."""

    handle: Handle
    end: ShardEnd
    offset: int
    length: int


class ShardFile:
    """One generation of a shard object. Any method may be called from several threads.

    ``end`` is the parsed trailer and index, ``handle`` the open object, ``name`` its name.
    """

    def __init__(self, storage: Storage, schema: Schema, field: Field, shard: int) -> None:
        self.name = layout.shard_name(field, shard)
        self._storage, self._schema, self._field, self._shard = storage, schema, field, shard
        self._codec = schema.chunk_codec(field)
        self._chunk_bytes = field.chunk_rows * field.row_bytes
        longest = MAX_ID_BYTES if field.name == IDS else MAX_STRING_BYTES
        self._largest_text = 4 + field.chunk_rows * (4 + longest)
        # What a chunk may take in the store: blosc adds 16 bytes at most, and a checksum 4.
        self._longest = (self._chunk_bytes or self._largest_text) + 64
        self._seen = 0
        try:
            self._reopen()
        except OSError as error:
            if not self._may_mend(error):
                raise
            self._reopen()

    @property
    def rows(self) -> int:
        """Rows that the shard covers, from its first."""
        return self.end.rows

    @property
    def full(self) -> bool:
        return self.end.rows == self._schema.rows_per_shard

    def check_covered(self, rows: int) -> None:
        """``Corrupt`` if the shard covers fewer than these rows: it is older than the commit that names them."""
        def check() -> None:
            if self.end.rows < rows:
                raise Corrupt(self.name, "the shard covers fewer rows than were committed", expected=f">= {rows} rows",
                              actual=self.end.rows)
        self._twice(lambda _: check())

    def chunk_into(self, chunk: int, out: Array, stored: Stored | None = None) -> None:
        """Decode one fixed-width chunk, whole with its padding, into ``out`` (uint8, contiguous, the chunk's size), from
        its stored bytes where they were brought before."""
        try:
            self._codec.decode_into(self._encoded(chunk, stored), out, self.name)
        except OSError as error:
            self.begin_again(error)
            self._codec.decode_into(self._encoded(chunk), out, self.name)

    def chunks_into(self, chunks: Int64s, out: Array, places: Int64s) -> None:
        """The same for many chunks, into ``out`` (uint8, contiguous) at these places."""
        size, handle, end = self._chunk_bytes, self.handle, self.end
        if self._codec.fixed:
            done = read_plain(handle, end, end.rows // self._field.chunk_rows, chunks, out, places, size)
        else:
            done = decode_batches(handle, end, self._codec, self._longest, chunks, out, places, size)
        for chunk, at in zip(chunks[done:].tolist(), places[done:].tolist(), strict=True):
            self.chunk_into(chunk, out[at:at + size])

    def strings(self, chunk: int, stored: Stored | None = None) -> StringIds:
        """The strings of one chunk, its padding too."""
        return self._twice(lambda given: self._strings(chunk, given), stored)

    def texts(self, chunk: int, stored: Stored | None = None) -> Array:
        """The strings of one chunk, its padding too; (chunk_rows,) numpy StringDType."""
        return self._twice(lambda given: self._texts(chunk, given), stored)

    def place(self, chunk: int) -> Place:
        """Where the stored bytes of a chunk lie now. ``Corrupt`` for one that was never written, or claims too much."""
        handle, end = self.handle, self.end
        offset, length = int(end.offsets[chunk]), int(end.lengths[chunk])
        if offset == EMPTY:
            raise Corrupt(self.name, f"chunk {chunk} was never written, though its rows are committed")
        if length > self._longest:
            raise Corrupt(self.name, f"chunk {chunk} claims more bytes than its rows can take", offset=offset,
                          expected=f"<= {self._longest}", actual=length)
        return Place(handle, end, offset, length)

    def identity(self, chunk: int, place: Place) -> bytes | None:
        """What no other bytes than this chunk's share, for ever; None for a chunk that the shard does not cover to its end.

        Two copies of a store may both go on under one session (a member that joins by its token), so names are not enough.
        A raw chunk has its checksum in the trailer. The others end with their own, after which the checksum of the body
        says no more than how long they are; there the object's generation tells copies apart, and the table of lengths."""
        end, step = place.end, self._field.chunk_rows
        if end.rows < (chunk + 1) * step:
            return None
        body = f"{end.chunk_crcs[chunk]}" if self._codec.fixed else (
            f"{crc32c(end.offsets.tobytes() + end.lengths.tobytes())}/{place.handle.generation}")
        return "/".join(map(str, ("chunk", end.store_id, end.session, end.path, end.shard, chunk, step, place.offset,
                                  place.length, body))).encode()

    def sound(self, chunk: int, place: Place, data: bytes) -> bool:
        """Whether the bytes that came from there pass the chunk's checksum."""
        try:
            self._check(chunk, place, data)
            self._codec.check(data, self.name)
        except Corrupt:
            return False
        return True

    def begin_again(self, error: OSError) -> None:
        """Read the end once more, where that may mend this error; else raise it. A full shard never changes; a distant
        object may be seen to change under us, also where it was only put there again."""
        if isinstance(error, Corrupt) and self.full:
            return                  # the caller's second look raises, with the message of the same check
        if not self._may_mend(error):
            raise error
        self._reopen()

    def _may_mend(self, error: OSError) -> bool:
        if isinstance(error, Corrupt):
            return error.problem != MISSING
        # A distant handle says so with an OSError when its object changed. A server that is not there is another matter.
        return self._storage.distant and not isinstance(error, (TimeoutError, ConnectionError, PermissionError))

    def body(self) -> bytes:
        """Everything before the trailer, checked: what a continued tail copies verbatim."""
        return self._twice(lambda _: self._body())

    def verify(self) -> None:
        """Check the CRC32C of every chunk of a raw fixed-width shard, or of the body of any other."""
        if not self._codec.fixed:
            self.body()
            return
        for chunk in range(-(-self.end.rows // self._field.chunk_rows)):
            self._twice(lambda _, at=chunk: self._encoded(at))      # type: ignore[misc]

    def close(self) -> None:
        self.handle.close()

    def _reopen(self) -> None:
        handle, end = self._opened()
        if end.rows < self._seen:
            # Another thread may have found a fuller one after we opened ours. If not, an older object was put back.
            handle, end = self._opened()
            if end.rows < self._seen:
                raise Corrupt(self.name, "the shard covers fewer rows than it did", expected=f">= {self._seen} rows",
                              actual=end.rows)
        # Threads that still read through the old handle keep it alive; it closes itself with the last of them.
        self.handle, self.end, self._seen = handle, end, end.rows

    def _opened(self) -> tuple[Handle, ShardEnd]:
        chunks = self._schema.chunks(self._field)
        try:
            handle = self._storage.open(self.name, end_bytes(chunks, self._codec.fixed))
        except FileNotFoundError:
            raise Corrupt(self.name, MISSING) from None
        try:
            return handle, self._read_end(handle)
        except BaseException:
            handle.close()
            raise

    def _read_end(self, handle: Handle) -> ShardEnd:
        chunks = self._schema.chunks(self._field)
        wanted = end_bytes(chunks, self._codec.fixed)
        data = handle.read(max(handle.size - wanted, 0), wanted)
        end = parse_end(data, handle.size, chunks, self._codec.fixed, self.name)
        identify(end, self._schema.store_id, self._field.path, self._shard, self.name)
        if end.rows > self._schema.rows_per_shard:
            raise Corrupt(self.name, "the shard covers more rows than it has", expected=self._schema.rows_per_shard,
                          actual=end.rows)
        return end

    def _encoded(self, chunk: int, stored: Stored | None = None) -> Any:
        """The stored bytes of one chunk; those of a raw shard are checked by the trailer's CRC of the covered rows."""
        place = self.place(chunk)
        handle, end, offset, length = place
        if stored is not None and stored.end is end:
            self._check(chunk, place, stored.data)
            return stored.data
        data = handle.read(offset, length)
        self._check(chunk, place, data)
        return data

    def _check(self, chunk: int, place: Place, data: Any) -> None:
        _, end, offset, length = place
        if len(data) != length:
            raise Corrupt(self.name, f"chunk {chunk} is cut short", offset=offset, expected=length, actual=len(data))
        if self._codec.fixed:
            covered = min(max(end.rows - chunk * self._field.chunk_rows, 0), self._field.chunk_rows)
            actual = crc32c(memoryview(data)[:covered * self._field.row_bytes])
            expected = int(end.chunk_crcs[chunk])
            if actual != expected:
                raise Corrupt(self.name, f"chunk {chunk} fails its CRC32C", offset=offset, expected=f"{expected:08x}",
                              actual=f"{actual:08x}")

    def _decoded_text(self, chunk: int, stored: Stored | None) -> bytes:
        body = self._codec.decode_string(self._encoded(chunk, stored), self._largest_text, self.name)
        count = int.from_bytes(body[:4], "little")
        if count != self._field.chunk_rows:
            raise Corrupt(self.name, f"chunk {chunk} holds another number of strings", expected=self._field.chunk_rows,
                          actual=count)
        return body

    def _strings(self, chunk: int, stored: Stored | None = None) -> StringIds:
        body = self._decoded_text(chunk, stored)
        try:
            return parse_strings(body[4:], self._field.chunk_rows)
        except ValueError as error:
            raise Corrupt(self.name, f"chunk {chunk}: {error}") from None

    def _texts(self, chunk: int, stored: Stored | None = None) -> Array:
        body = self._decoded_text(chunk, stored)
        try:
            return np.asarray(VLenUTF8().decode(body)).astype(_TEXT)
        except (ValueError, RuntimeError) as error:
            raise Corrupt(self.name, f"chunk {chunk} can't be decoded: {error}") from None

    def _body(self) -> bytes:
        handle, end = self.handle, self.end
        data = handle.read(0, end.body_bytes)
        actual = body_checksum(data, end) if len(data) == end.body_bytes else 0
        if len(data) != end.body_bytes or actual != end.body_crc:
            raise Corrupt(self.name, "the shard's body fails its CRC32C", expected=f"{end.body_crc:08x}",
                          actual=f"{actual:08x}")
        return data

    def _twice(self, act: Callable[[Stored | None], T], stored: Stored | None = None) -> T:
        try:
            return act(stored)
        except OSError as error:
            self.begin_again(error)
            return act(None)


def open_shard(storage: Storage, schema: Schema, field: Field, shard: int) -> ShardFile:
    """The shard with its end read and checked. ``Corrupt`` where it is missing, damaged, or another one's."""
    return ShardFile(storage, schema, field, shard)
