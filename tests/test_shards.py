"""One shard's bytes: a rewritten tail never invalidates an index that was published before."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zstore
from zstore.commits.log import Log
from zstore.errors import Corrupt
from zstore.format.keys import StringIds, pack_strings
from zstore.format.layout import shard_name
from zstore.format.schema import Field, Schema, make_field
from zstore.format.trailer import EMPTY, ShardEnd, end_bytes, parse_end
from zstore.shards.build import FieldBody
from zstore.shards.read import ShardFile, open_shard
from zstore.storage import open_storage

STORE_ID, SESSION, LATER = "ab" * 16, "cd" * 16, "ef" * 16
ROWS = 32


@dataclass
class Objects:
    """A storage of one object, in memory."""

    data: bytes = b""
    opened: int = 0

    def open(self, name: str, end: int = 0) -> Any:
        self.opened += 1
        return Bytes(self.data)


@dataclass
class Bytes:
    data: bytes
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset:offset + length]

    def fileno(self) -> int | None:
        return None

    def close(self) -> None:
        pass


def schema_of(codec: str, dtype: str) -> tuple[Schema, Field]:
    one = make_field("mine", dtype, () if dtype == "string" else (2,), ROWS)
    one = Field(one.name, one.dtype, one.shape, 8, one.path, one.fill)       # four chunks
    return Schema(STORE_ID, ROWS, codec, {"mine": one}), one


def values(dtype: str, count: int) -> Any:
    if dtype == "string":
        return pack_strings([f"{'ä' * (i % 3)}{i}" for i in range(count)])
    return (np.arange(2 * count).reshape(count, 2) % 120).astype(dtype)


def some(rows: Any, start: int, stop: int) -> Any:
    return rows.slice(start, stop) if isinstance(rows, StringIds) else rows[start:stop]


def read_chunk(file: ShardFile, one: Field, chunk: int) -> Any:
    if one.is_string:
        return file.strings(chunk).to_list()
    out = np.empty(one.chunk_rows * one.row_bytes, np.uint8)
    file.chunk_into(chunk, out)
    return out.view(one.numpy_dtype).reshape(-1, *one.shape).tolist()


def listed(rows: Any) -> list[Any]:
    return rows.to_list() if isinstance(rows, StringIds) else rows.tolist()


class Growing:
    """A shard that grows commit by commit, as a writer makes it."""

    def __init__(self, codec: str, dtype: str) -> None:
        self.schema, self.field = schema_of(codec, dtype)
        self.rows, self.body = values(dtype, ROWS), FieldBody(self.schema, self.field)
        self.at = self.added = 0
        self.session = SESSION

    def grow(self, count: int) -> bytes:
        self.at = min(self.at + count, ROWS)
        whole = self.at // 8 * 8
        if whole > self.added:
            self.body.add(self.added, some(self.rows, self.added, whole), whole - self.added)
            self.added = whole
        behind = self.body.add_partial(self.added, some(self.rows, self.added, self.at), self.at - self.added)
        parts = self.body.finish(self.at, STORE_ID, self.session, 0, behind)
        return b"".join(bytes(memoryview(part).cast("B")) for part in parts)

    def hand_over(self, data: bytes) -> None:
        """Another writer goes on from the object."""
        file = open_shard(Objects(data), self.schema, self.field, 0)        # type: ignore[arg-type]
        self.body, self.session = FieldBody(self.schema, self.field), LATER
        self.body.resume(file.body(), file.end, file.name)
        self.added = self.at // 8 * 8

    def end(self, data: bytes) -> ShardEnd:
        fixed = self.schema.chunk_codec(self.field).fixed
        return parse_end(data[-end_bytes(4, fixed):], len(data), 4, fixed, "x")

    def check_against(self, old: bytes, new: bytes) -> None:
        """By the old object's index, the new object gives what the old one covered."""
        before, after, fixed = self.end(old), self.end(new), self.schema.chunk_codec(self.field).fixed
        for chunk in range(4):
            if before.offsets[chunk] == EMPTY:
                continue
            at, length = int(before.offsets[chunk]), int(before.lengths[chunk])
            if fixed:
                covered = min(before.rows - chunk * 8, 8) * self.field.row_bytes
                assert (at, length) == (int(after.offsets[chunk]), int(after.lengths[chunk]))
                assert new[at:at + covered] == old[at:at + covered]
            else:
                assert new[at:at + length] == old[at:at + length]
                if (chunk + 1) * 8 <= before.rows:                          # a full chunk stays where it is
                    assert (at, length) == (int(after.offsets[chunk]), int(after.lengths[chunk]))
        if not fixed:
            assert new.startswith(old[:before.body_bytes])

    def check_rows(self, data: bytes) -> None:
        file = open_shard(Objects(data), self.schema, self.field, 0)        # type: ignore[arg-type]
        assert file.rows == self.at
        for chunk in range(-(-self.at // 8)):
            stop = min(chunk * 8 + 8, self.at)
            assert read_chunk(file, self.field, chunk)[:stop - chunk * 8] == listed(some(self.rows, chunk * 8, stop))


kinds = st.sampled_from([("raw", "float32"), ("raw", "int8"), ("raw", "string"), ("lossless", "float32"),
                         ("lossless", "string"), ("small", "float64"), ("small", "string")])


@settings(max_examples=80, deadline=None)
@given(kinds, st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=12))
def test_every_index_ever_published_stays_true(kind: tuple[str, str], steps: list[tuple[int, bool]]) -> None:
    shard, past = Growing(*kind), []
    for count, hand_over in steps:
        if shard.at == ROWS:
            break
        data = shard.grow(count)
        shard.check_rows(data)
        for old in past:
            shard.check_against(old, data)
        past.append(data)
        if hand_over and shard.at < ROWS:
            shard.hand_over(data)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_full_raw_shard_is_its_rows_from_the_first_byte_on(dtype: str) -> None:
    shard = Growing("raw", dtype)
    for count in (3, 7, 30):
        data = shard.grow(count)
    assert data.startswith(shard.rows.tobytes())
    assert shard.end(data).body_bytes == shard.rows.nbytes


@pytest.mark.parametrize("kind", [("raw", "float32"), ("lossless", "float32"), ("raw", "string")])
def test_a_damaged_body_is_not_continued(kind: tuple[str, str]) -> None:
    shard = Growing(*kind)
    data = bytearray(shard.grow(13))
    data[2] ^= 1
    with pytest.raises(Corrupt, match="CRC32C"):
        shard.hand_over(bytes(data))


@pytest.mark.parametrize("kind", [("raw", "float32"), ("raw", "string"), ("lossless", "float32"), ("small", "string")])
def test_no_flipped_byte_of_a_shard_gives_other_rows(kind: tuple[str, str]) -> None:
    shard = Growing(*kind)
    data = shard.grow(13)
    end = shard.end(data)
    padding = range(13 * shard.field.row_bytes, end.body_bytes) if kind == ("raw", "float32") else range(0)
    good = [read_chunk(open_shard(Objects(data), shard.schema, shard.field, 0), shard.field, c)   # type: ignore[arg-type]
            for c in range(2)]
    for at in set(range(0, len(data), 3)) - set(padding):
        bad = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1:]
        try:
            file = open_shard(Objects(bad), shard.schema, shard.field, 0)    # type: ignore[arg-type]
            found = [read_chunk(file, shard.field, c) for c in range(2)]
        except Corrupt as error:
            assert error.object == "mine/c.0" + ("" if shard.field.is_string else ".0")
        else:
            assert str(found) == str(good)              # a superseded byte, or one that no index names


def test_a_shard_that_was_not_full_is_read_once_more() -> None:
    """A reader with bytes of two generations begins again, once, from the suffix."""
    shard = Growing("lossless", "float32")
    old, new = shard.grow(5), shard.grow(10)
    storage = Objects(old)
    file = open_shard(storage, shard.schema, shard.field, 0)                # type: ignore[arg-type]
    storage.data = new
    file.check_covered(12)
    assert file.rows == 15
    opened = storage.opened
    with pytest.raises(Corrupt, match="fewer rows"):
        file.check_covered(20)
    assert storage.opened == opened + 1


# -- as a writer makes them -------------------------------------------------------------------------------------------


def write(url: Path, first: int, count: int, **more: Any) -> None:
    with zstore.Writer(url, commit_every_s=None, **more) as writer:
        add(writer, first, count)


def add(writer: zstore.Writer, first: int, count: int) -> None:
    writer.append([f"id-{i}" for i in range(first, first + count)],
                  np.arange(first, first + count, dtype=np.float32)[:, None].repeat(3, 1), note=[f"n{i}" for i in range(count)])


def geometry(url: Path) -> Schema:
    log = Log(open_storage(url, None))
    return log.schema_of(log.head())


def bodies(url: Path, shard: int) -> dict[str, tuple[bytes, ShardEnd]]:
    """The bytes and the end of one shard of every field."""
    schema, out = geometry(url), {}
    for name, one in schema.fields.items():
        data = (url / shard_name(one, shard)).read_bytes()
        chunks, fixed = schema.chunks(one), schema.chunk_codec(one).fixed
        out[name] = (data, parse_end(data[-end_bytes(chunks, fixed):], len(data), chunks, fixed, name))
    return out


@pytest.mark.parametrize("codec", ["raw", "lossless", "small"])
def test_old_indexes_read_new_objects_over_many_commits(tmp_path: Path, codec: str) -> None:
    url, past = tmp_path / "a.zarr", []
    with zstore.Writer(url, codec=codec, commit_every_s=None, rows_per_shard=4096) as writer:
        for step in range(12):
            add(writer, step * 150, 150)
            writer.commit()
            if (url / "vectors" / "c.1.0").exists():
                break                       # the tail was wasteful, and left
            past.append(bodies(url, 0))
            schema = geometry(url)
            for old in past[:-1]:
                for name, (data, end) in old.items():
                    one, (new, after) = schema.fields[name], past[-1][name]
                    assert (after.rows, after.session) == ((step + 1) * 150, end.session)
                    for chunk in np.flatnonzero(end.offsets != EMPTY).tolist():
                        at, length = int(end.offsets[chunk]), int(end.lengths[chunk])
                        if schema.chunk_codec(one).fixed:
                            length = min(end.rows - chunk * one.chunk_rows, one.chunk_rows) * one.row_bytes
                        assert new[at:at + length] == data[at:at + length], (name, step, chunk)
    assert len(past) > 4


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_whoever_continues_a_tail_copies_its_body_verbatim(tmp_path: Path, codec: str) -> None:
    url = tmp_path / "a.zarr"
    write(url, 0, 700, codec=codec, rows_per_shard=4096)
    for session in range(1, 4):
        before = bodies(url, 0)
        write(url, 700 * session, 700)
        after, schema = bodies(url, 0), geometry(url)
        for name, (data, end) in before.items():
            one, (new, new_end) = schema.fields[name], after[name]
            keep = end.rows * one.row_bytes if schema.chunk_codec(one).fixed else end.body_bytes
            assert new[:keep] == data[:keep]
            assert new_end.rows == 700 * (session + 1)
            assert new_end.session != end.session
    assert not (url / "vectors" / "c.1.0").exists()
    reader = zstore.Reader(url)
    assert reader.vectors[:, 0].tolist() == list(range(2800))
    assert reader.ids.tolist() == [f"id-{i}" for i in range(2800)]


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_wasteful_tails_are_left(tmp_path: Path, codec: str) -> None:
    """Many tiny commits: dead bytes stay within a quarter of a full shard, and one commit's."""
    url, commits = tmp_path / "a.zarr", 60
    with zstore.Writer(url, codec=codec, commit_every_s=None, rows_per_shard=256) as writer:
        for row in range(commits):
            add(writer, row, 1)
            writer.commit()
    schema = geometry(url)
    shards = sorted(int(path.name.split(".")[1]) for path in (url / "ids").glob("c.*"))
    assert len(shards) > 1
    assert shards == list(range(len(shards)))
    full = sum(one.row_bytes or 16 for one in schema.fields.values()) * 256
    for shard in shards:
        found = bodies(url, shard)
        dead = sum(end.body_bytes - int(end.lengths[end.offsets != EMPTY].sum()) for _, end in found.values())
        largest = sum(end.body_bytes for _, end in found.values())
        assert dead * 4 <= full + 4 * largest / max(max(end.rows for _, end in found.values()), 1)
    reader = zstore.Reader(url)
    assert reader.vectors[:, 0].tolist() == list(range(commits))
    assert reader.get("id-41")[0] == 41


def test_a_few_commits_waste_no_shard(tmp_path: Path) -> None:
    with zstore.Writer(tmp_path / "a.zarr", codec="raw", commit_every_s=None, rows_per_shard=4096) as writer:
        for step in range(4):
            add(writer, step * 1000, 1000)
            writer.commit()
    assert len(list((tmp_path / "a.zarr" / "vectors").glob("c.*"))) == 1
