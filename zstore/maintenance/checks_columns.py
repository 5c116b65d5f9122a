"""Shard objects against what the versions need of them, and the keys of rows."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zstore._typing import Array, Int64s
from zstore.commits.log import Log
from zstore.errors import Corrupt
from zstore.format.checksum import crc32c
from zstore.format.extents import Extents
from zstore.format.keys import MAX_ID_BYTES, StringIds, hash_ints, hash_strings, seed_of
from zstore.format.schema import EPOCH, IDS, Field, Schema
from zstore.format.trailer import EMPTY, seal_places
from zstore.maintenance.checks_log import sentence
from zstore.maintenance.story import Story
from zstore.shards.read import ShardFile, open_shard
from zstore.storage.base import Storage

Hashes = tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32], npt.NDArray[np.int32]]      # key, check, epoch
READ_BYTES = 4 * 2**20
KEPT_CHUNKS = 64
Problem = tuple[str, Extents]           # a sentence, and the addresses that it touches


@dataclass
class ShardCheck:
    """Checks shards of one store. ``quick`` looks at their ends only."""

    log: Log
    story: Story
    schema: Schema
    quick: bool

    def problems(self, field: Field, shard: int) -> list[Problem]:
        """What is wrong with one object. Read again once before it is said: a live writer may have replaced it."""
        found = self._problems(field, shard)
        return self._problems(field, shard) if found else []

    def _problems(self, field: Field, shard: int) -> list[Problem]:
        per_shard = self.schema.rows_per_shard
        needed = self.story.needed[field.path] & Extents([(shard * per_shard, per_shard)])
        try:
            opened = open_shard(self.log.storage, self.schema, field, shard)
        except Corrupt as error:
            return [(sentence(error), needed)]
        try:
            return self._end_problems(opened, field, shard, needed) or (
                [] if self.quick else self._body_problems(opened, field, shard, needed))
        except Corrupt as error:
            return [(sentence(error), needed)]
        except OSError as error:
            return [(f"it can't be read: {error}", needed)]
        finally:
            opened.close()

    def _end_problems(self, opened: ShardFile, field: Field, shard: int, needed: Extents) -> list[Problem]:
        first = shard * self.schema.rows_per_shard
        if not self._is_ours(opened, field, shard):
            return [("it was written by a session that is not, in this log, its writer: it comes from a copy of the "
                     "store that went another way, or from before", needed)]
        if opened.end.rows < needed.end - first:
            lost = needed - Extents([(first, opened.end.rows)])
            return [(f"it covers {opened.end.rows} rows, and {needed.end - first} were committed", lost)]
        return self._place_problems(opened, field, first, needed)

    def _is_ours(self, opened: ShardFile, field: Field, shard: int) -> bool:
        # The last session that named rows of the shard wrote it, or one that took it over as a tail since.
        story, session = self.story, opened.end.session
        if session not in story.sessions:
            story.learn(self.log)
        number, least = story.sessions.get(session), story.writers[field.path][shard]
        return number is not None and (number == least or (number > least and number in story.takers.get(shard, ())))

    def _place_problems(self, opened: ShardFile, field: Field, first: int, needed: Extents) -> list[Problem]:
        """Every needed chunk is there; those of a raw shard lie where a mapping expects them."""
        end, chunks = opened.end, self._chunks(field, first, needed)
        offsets, lengths = end.offsets[chunks], end.lengths[chunks]
        wrong = offsets == EMPTY
        if self.schema.chunk_codec(field).fixed:
            size = np.uint64(field.chunk_rows * field.row_bytes)
            wrong |= (offsets != chunks.astype(np.uint64) * size) | (lengths != size)
        if not wrong.any():
            return []
        return [(f"{int(wrong.sum())} of its chunks are not where they should be",
                 self._rows_of(field, first, chunks[wrong], needed))]

    def _body_problems(self, opened: ShardFile, field: Field, shard: int, needed: Extents) -> list[Problem]:
        first = shard * self.schema.rows_per_shard
        bad: list[int] = []
        said = ""
        chunks = self._chunks(field, first, needed)
        for chunk in chunks.tolist():
            try:
                self._check_chunk(opened, field, chunk, first, needed)
            except Corrupt as error:
                said = said or sentence(error)
                bad.append(chunk)
        if bad:
            more = "" if len(bad) == 1 else f"; {len(bad)} of {len(chunks)} chunks are damaged"
            return [(said + more, self._rows_of(field, first, np.array(bad), needed))]
        end = opened.end
        crc = _body_checksum(opened)
        if crc != end.body_crc:
            return [(f"its body fails its CRC32C (expected {end.body_crc:08x}, found {crc:08x}), though every chunk "
                     "that a version needs is sound", Extents())]
        return []

    def _check_chunk(self, opened: ShardFile, field: Field, chunk: int, first: int, needed: Extents) -> None:
        at = first + chunk * field.chunk_rows
        wanted = (needed & Extents([(at, field.chunk_rows)])).addresses() - at
        if field.is_string:
            _check_strings(opened, field, chunk, wanted)
            return
        out = np.empty((field.chunk_rows, *field.shape), field.numpy_dtype)
        opened.chunk_into(chunk, out.reshape(-1).view(np.uint8))
        if field.name == EPOCH and (out[wanted] < 0).any():
            raise Corrupt(opened.name, f"chunk {chunk} holds negative epochs in committed rows")

    def _chunks(self, field: Field, first: int, needed: Extents) -> Int64s:
        """The chunks of this shard in which needed rows lie, ascending."""
        parts = [np.arange((start - first) // field.chunk_rows, (start + count - 1 - first) // field.chunk_rows + 1)
                 for start, count in needed]
        return np.unique(np.concatenate(parts)).astype(np.int64)

    def _rows_of(self, field: Field, first: int, chunks: Any, needed: Extents) -> Extents:
        return needed & Extents((first + chunk * field.chunk_rows, field.chunk_rows) for chunk in chunks.tolist())


def _body_checksum(opened: ShardFile) -> int:
    """``body_checksum`` of the body as it lies there, read piece by piece."""
    end, crc, at = opened.end, 0, 0
    places = seal_places(end.offsets, end.lengths) if not len(end.chunk_crcs) else np.zeros(0, np.int64)
    seals = np.zeros(len(places), np.uint8)
    while at < end.body_bytes:
        piece = opened.handle.read(at, min(READ_BYTES, end.body_bytes - at))
        if not piece:
            break
        here = (places >= at) & (places < at + len(piece))
        seals[here] = np.frombuffer(piece, np.uint8)[places[here] - at]
        crc, at = crc32c(piece, crc), at + len(piece)
    return crc32c(seals.tobytes(), crc)


def _check_strings(opened: ShardFile, field: Field, chunk: int, wanted: Int64s) -> None:
    items = opened.strings(chunk)
    _decode_each(opened, items, chunk, wanted)
    if field.name == IDS:
        lengths = items.lengths[wanted]
        if (lengths < 1).any() or (lengths > MAX_ID_BYTES).any():
            raise Corrupt(opened.name, f"chunk {chunk} holds empty or over-long ids in committed rows")


def _decode_each(opened: ShardFile, items: StringIds, chunk: int, wanted: Int64s) -> None:
    # One by one: a character that is split between two items is none in either.
    try:
        for row in wanted.tolist():
            start = int(items.starts[row])
            items.body[start:start + int(items.lengths[row])].decode()
    except UnicodeDecodeError:
        raise Corrupt(opened.name, f"chunk {chunk} holds a string that is not UTF-8") from None


class KeyColumns:
    """Ids and epochs by address, decoded chunk by chunk; rows whose chunk can't be read are left out."""

    def __init__(self, storage: Storage, schema: Schema) -> None:
        self._storage, self._schema = storage, schema
        self._kept: OrderedDict[tuple[str, int, int], Any] = OrderedDict()

    def keys(self, addresses: Int64s, most: int) -> list[tuple[int | str, int]]:
        """``(id, epoch)`` of the first rows that can be read, in order."""
        out: list[tuple[int | str, int]] = []
        for address in addresses.tolist():
            one = np.array([address], np.int64)
            epoch, item = self._gather(EPOCH, one), self._id(address)
            if epoch is not None and item is not None:
                out.append((item, int(epoch[0])))
            if len(out) == most:
                break
        return out

    def hashes(self, addresses: Int64s) -> Hashes | None:
        """Key, check and epoch of these ascending addresses; None where any of them can't be read."""
        parts = []
        step = self._schema.fields[IDS].chunk_rows
        for start, count in Extents.of_addresses(addresses):
            at = start
            while at < start + count:
                size = min(step - at % step, start + count - at)
                hashed, epochs = self._hashed(at, size), self._gather(EPOCH, np.arange(at, at + size))
                if hashed is None or epochs is None:
                    return None
                parts.append((*hashed, epochs))
                at += size
        if not parts:
            return np.zeros(0, np.uint64), np.zeros(0, np.uint32), np.zeros(0, np.int32)
        key, check, epoch = (np.concatenate(column) for column in zip(*parts, strict=True))
        return key, check, epoch

    def _hashed(self, start: int, count: int) -> tuple[Any, Any] | None:
        """Of rows within one chunk."""
        f = self._schema.fields[IDS]
        chunk = self._chunk(f, start)
        if chunk is None:
            return None
        at = start % self._schema.rows_per_shard % f.chunk_rows
        if at + count > len(chunk):
            return None
        if not f.is_string:
            return hash_ints(chunk[at:at + count]), np.zeros(count, np.uint32)
        return hash_strings(chunk.slice(at, at + count), seed_of(self._schema.store_id))

    def _id(self, address: int) -> int | str | None:
        f = self._schema.fields[IDS]
        chunk = self._chunk(f, address)
        if chunk is None:
            return None
        at = address % self._schema.rows_per_shard % f.chunk_rows
        if at >= len(chunk):
            return None
        if not f.is_string:
            return int(chunk[at])
        start = int(chunk.starts[at])
        return str(chunk.body[start:start + int(chunk.lengths[at])].decode("utf-8", "replace"))

    def _gather(self, name: str, addresses: Int64s) -> Array | None:
        f = self._schema.fields[name]
        parts = []
        for at in np.unique(addresses // f.chunk_rows).tolist():
            chunk = self._chunk(f, at * f.chunk_rows)
            within = addresses[addresses // f.chunk_rows == at] % f.chunk_rows
            if chunk is None or int(within.max()) >= len(chunk):
                return None
            parts.append(chunk[within])
        return np.concatenate(parts)

    def _chunk(self, f: Field, address: int) -> Any:
        """The covered rows of the chunk with this address, as StringIds or an array; None where it can't be read."""
        shard, row = divmod(address, self._schema.rows_per_shard)
        place = (f.path, shard, row // f.chunk_rows)
        if place not in self._kept:
            self._kept[place] = self._decode(f, shard, row // f.chunk_rows)
            if len(self._kept) > KEPT_CHUNKS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(place)
        return self._kept[place]

    def _decode(self, f: Field, shard: int, chunk: int) -> Any:
        try:
            opened = open_shard(self._storage, self._schema, f, shard)
        except (Corrupt, OSError):
            return None
        try:
            covered = min(max(opened.rows - chunk * f.chunk_rows, 0), f.chunk_rows)
            if f.is_string:
                return opened.strings(chunk).slice(0, covered)
            out = np.empty((f.chunk_rows, *f.shape), f.numpy_dtype)
            opened.chunk_into(chunk, out.reshape(-1).view(np.uint8))
            return out[:covered]
        except (Corrupt, OSError):
            return None
        finally:
            opened.close()
