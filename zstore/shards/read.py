"""Reading one shard object: its end, its chunks, its body.

A tail is rewritten while we read: each rewrite is a new object, and every index ever published stays valid against
every later one. So a handle that cannot pin (a remote one) may bring bytes of two generations into one check. A reader that
fails a check of a shard that was not full therefore begins again once, from the suffix, before it says ``Corrupt``.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numcodecs.vlen import VLenUTF8

from zstore._typing import Array
from zstore.errors import Corrupt
from zstore.format import layout
from zstore.format.checksum import crc32c
from zstore.format.keys import MAX_ID_BYTES, StringIds, parse_strings
from zstore.format.schema import IDS, MAX_STRING_BYTES, Field, Schema
from zstore.format.trailer import EMPTY, ShardEnd, end_bytes, identify, parse_end
from zstore.storage.base import Handle, Storage

T = TypeVar("T")
MISSING = "a shard that committed rows need is missing"
_TEXT = np.dtypes.StringDType()


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
        try:
            self._reopen()
        except Corrupt as error:
            if error.problem == MISSING:
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
        self._twice(check)

    def chunk_into(self, chunk: int, out: Array) -> None:
        """Decode one fixed-width chunk, whole with its padding, into ``out`` (uint8, contiguous, the chunk's size)."""
        try:
            self._codec.decode_into(self._encoded(chunk), out, self.name)
        except Corrupt:
            self._twice_after_failure(lambda: self._codec.decode_into(self._encoded(chunk), out, self.name))

    def strings(self, chunk: int) -> StringIds:
        """The strings of one chunk, its padding too."""
        return self._twice(lambda: self._strings(chunk))

    def texts(self, chunk: int) -> Array:
        """The strings of one chunk, its padding too; (chunk_rows,) numpy StringDType."""
        return self._twice(lambda: self._texts(chunk))

    def body(self) -> bytes:
        """Everything before the trailer, checked: what a continued tail copies verbatim."""
        return self._twice(self._body)

    def verify(self) -> None:
        """Check the CRC32C of every chunk of a raw fixed-width shard, or of the body of any other."""
        if not self._codec.fixed:
            self.body()
            return
        for chunk in range(-(-self.end.rows // self._field.chunk_rows)):
            self._twice(lambda at=chunk: self._encoded(at))      # type: ignore[misc]

    def close(self) -> None:
        self.handle.close()

    def _reopen(self) -> None:
        chunks = self._schema.chunks(self._field)
        try:
            handle = self._storage.open(self.name, end_bytes(chunks, self._codec.fixed))
        except FileNotFoundError:
            raise Corrupt(self.name, MISSING) from None
        try:
            end = self._read_end(handle)
        except BaseException:
            handle.close()
            raise
        # Threads that still read through the old handle keep it alive; it closes itself with the last of them.
        self.handle, self.end = handle, end
        self._map: memoryview | None = None
        self._mappable = end.rows == self._schema.rows_per_shard

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

    def _encoded(self, chunk: int) -> Any:
        """The stored bytes of one chunk; those of a raw shard are checked by the trailer's CRC of the covered rows."""
        handle, end = self.handle, self.end
        offset, length = int(end.offsets[chunk]), int(end.lengths[chunk])
        if offset == EMPTY:
            raise Corrupt(self.name, f"chunk {chunk} was never written, though its rows are committed")
        if self._mappable and self._map is None:
            self._map, self._mappable = _mapped(handle), False
        # The reference is taken once: another thread may reopen the shard meanwhile, and a map outlives its file.
        file_map = self._map
        data: Any = file_map[offset:offset + length] if file_map is not None else handle.read(offset, length)
        if len(data) != length:
            raise Corrupt(self.name, f"chunk {chunk} is cut short", offset=offset, expected=length, actual=len(data))
        if self._codec.fixed:
            covered = min(max(end.rows - chunk * self._field.chunk_rows, 0), self._field.chunk_rows)
            actual = crc32c(memoryview(data)[:covered * self._field.row_bytes])
            expected = int(end.chunk_crcs[chunk])
            if actual != expected:
                raise Corrupt(self.name, f"chunk {chunk} fails its CRC32C", offset=offset, expected=f"{expected:08x}",
                              actual=f"{actual:08x}")
        return data

    def _decoded_text(self, chunk: int) -> bytes:
        body = self._codec.decode_string(self._encoded(chunk), self._largest_text, self.name)
        count = int.from_bytes(body[:4], "little")
        if count != self._field.chunk_rows:
            raise Corrupt(self.name, f"chunk {chunk} holds another number of strings", expected=self._field.chunk_rows,
                          actual=count)
        return body

    def _strings(self, chunk: int) -> StringIds:
        body = self._decoded_text(chunk)
        try:
            return parse_strings(body[4:], self._field.chunk_rows)
        except ValueError as error:
            raise Corrupt(self.name, f"chunk {chunk}: {error}") from None

    def _texts(self, chunk: int) -> Array:
        body = self._decoded_text(chunk)
        try:
            return np.asarray(VLenUTF8().decode(body)).astype(_TEXT)
        except (ValueError, RuntimeError) as error:
            raise Corrupt(self.name, f"chunk {chunk} can't be decoded: {error}") from None

    def _body(self) -> bytes:
        handle, end = self.handle, self.end
        data = handle.read(0, end.body_bytes)
        actual = crc32c(data)
        if len(data) != end.body_bytes or actual != end.body_crc:
            raise Corrupt(self.name, "the shard's body fails its CRC32C", expected=f"{end.body_crc:08x}",
                          actual=f"{actual:08x}")
        return data

    def _twice(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except Corrupt:
            return self._twice_after_failure(act)

    def _twice_after_failure(self, act: Callable[[], T]) -> T:
        if self.full:
            return act()        # a full shard never changes: this raises, with the message of the same check
        self._reopen()
        return act()


def open_shard(storage: Storage, schema: Schema, field: Field, shard: int) -> ShardFile:
    """The shard with its end read and checked. ``Corrupt`` where it is missing, damaged, or another one's."""
    return ShardFile(storage, schema, field, shard)


def _mapped(handle: Handle) -> memoryview | None:
    """A full shard's bytes without a read per chunk, where the handle has a descriptor."""
    descriptor = handle.fileno()
    if descriptor is None or not handle.size:
        return None
    try:
        return memoryview(mmap.mmap(descriptor, handle.size, access=mmap.ACCESS_READ))
    except OSError:             # out of maps: pread serves as well
        return None
