"""Reading one shard: identity, coverage, checks, and the second look at a tail that changed meanwhile."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zstore.errors import Corrupt
from zstore.format import layout
from zstore.format.keys import pack_strings
from zstore.format.schema import Field, Schema, make_field
from zstore.shards.build import FieldBody
from zstore.shards.read import Stored, open_shard
from zstore.storage.local import LocalStorage

STORE = "0123456789abcdef" * 2
ROWS = 64


class Handle:
    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset:offset + length]

    def fileno(self) -> None:
        return None

    def close(self) -> None:
        pass


class Folder:
    """Each open gives the next of the generations, then the last one for ever."""

    url = "test"
    distant = False

    def __init__(self, *generations: bytes) -> None:
        self.generations, self.opened = list(generations), 0

    def open(self, name: str, end: int = 0) -> Handle:
        self.opened += 1
        if not self.generations:
            raise FileNotFoundError(name)
        return Handle(self.generations.pop(0) if len(self.generations) > 1 else self.generations[0])


def schema(codec: str) -> Schema:
    fields = [make_field("vectors", "float32", (8,), ROWS), make_field("ids", "string", (), ROWS),
              make_field("epoch", "int32", (), ROWS)]
    small = {field.name: Field(field.name, field.dtype, field.shape, 16, field.path, field.fill) for field in fields}
    return Schema(STORE, ROWS, codec, small)


def values(count: int) -> np.ndarray[Any, Any]:
    return np.arange(count * 8, dtype=np.float32).reshape(count, 8)


def shard(codec: str, name: str, count: int, number: int = 3) -> bytes:
    held = schema(codec)
    rows: Any = values(count) if name == "vectors" else pack_strings([f"id-{row}" for row in range(count)])
    body = FieldBody(held, held.fields[name])
    whole = count // 16 * 16
    body.add(0, rows[:whole] if name == "vectors" else rows.slice(0, whole), whole)
    rest = rows[whole:] if name == "vectors" else rows.slice(whole, count)
    behind = body.add_partial(whole, rest, count - whole)
    return b"".join(bytes(part) for part in body.finish(count, STORE, STORE, number, behind))


def opened(codec: str, name: str, *generations: bytes) -> Any:
    held = schema(codec)
    return open_shard(Folder(*generations), held, held.fields[name], 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", ["raw", "lossless", "small"])
@pytest.mark.parametrize("count", [16, 40, 64])
def test_round_trip(codec: str, count: int) -> None:
    file = opened(codec, "vectors", shard(codec, "vectors", count))
    out = np.empty(16 * 32, np.uint8)
    for chunk in range(-(-count // 16)):
        file.chunk_into(chunk, out)
        covered = min(count - chunk * 16, 16)
        assert (out.view(np.float32).reshape(16, 8)[:covered] == values(count)[chunk * 16:chunk * 16 + covered]).all()
    texts = opened(codec, "ids", shard(codec, "ids", count))
    assert texts.strings(0).to_list() == texts.texts(0).tolist() == [f"id-{row}" for row in range(16)]
    file.verify()
    texts.verify()
    file.check_covered(count)
    with pytest.raises(Corrupt, match="fewer rows"):
        file.check_covered(count + 1)


def test_missing_and_swapped() -> None:
    with pytest.raises(Corrupt, match="committed rows need is missing"):
        opened("raw", "vectors")
    with pytest.raises(Corrupt, match="another shard"):
        opened("raw", "vectors", shard("raw", "vectors", 40, number=4))
    with pytest.raises(Corrupt, match=r"cut short|CRC32C"):
        opened("raw", "vectors", shard("raw", "vectors", 40)[:-9])


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_every_flipped_byte_of_a_chunk_is_found(codec: str) -> None:
    data = shard(codec, "vectors", 64)
    out = np.empty(16 * 32, np.uint8)
    for at in range(0, int(opened(codec, "vectors", data).end.lengths[0]), 37):
        file = opened(codec, "vectors", data[:at] + bytes([data[at] ^ 1]) + data[at + 1:])
        with pytest.raises(Corrupt):
            file.chunk_into(0, out)


def test_a_tail_that_changed_is_looked_at_again() -> None:
    """Remote handles can't pin: the suffix of one generation and the chunk of another are no damage."""
    good = shard("raw", "vectors", 40)
    torn = bytes([good[0] ^ 1]) + good[1:]
    out = np.empty(16 * 32, np.uint8)
    file = opened("raw", "vectors", torn, good)
    file.chunk_into(0, out)
    assert (out.view(np.float32).reshape(16, 8) == values(16)).all()
    assert opened("raw", "vectors", good[:-1], good).rows == 40
    older = opened("raw", "vectors", shard("raw", "vectors", 20), good)
    older.check_covered(40)
    assert older.rows == 40


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_bytes_that_were_brought_count_for_their_own_end_only(codec: str) -> None:
    """Brought, then another thread found that the tail had grown: the partial chunk is not what it was."""
    file = opened(codec, "vectors", shard(codec, "vectors", 20), shard(codec, "vectors", 40))
    place = file.place(1)
    stored = Stored(place.end, place.handle.read(place.offset, place.length))
    out = np.empty(16 * 32, np.uint8)
    file.chunk_into(1, out, stored)
    assert (out.view(np.float32).reshape(16, 8)[:4] == values(20)[16:]).all()
    file.check_covered(40)
    assert file.rows == 40
    file.chunk_into(1, out, stored._replace(data=None))      # not even looked at: its length might fit
    assert (out.view(np.float32).reshape(16, 8) == values(32)[16:]).all()
    file.chunk_into(1, out, stored)
    assert (out.view(np.float32).reshape(16, 8) == values(32)[16:]).all()


def test_a_tail_that_became_shorter_is_damage() -> None:
    """Its older index is as sound as ever, and says nothing of the rows that were committed since."""
    good = shard("raw", "vectors", 40)
    file = opened("raw", "vectors", good[:600] + bytes([good[600] ^ 1]) + good[601:], shard("raw", "vectors", 20))
    with pytest.raises(Corrupt, match="fewer rows than it did"):
        file.chunk_into(1, np.empty(16 * 32, np.uint8))


def test_a_full_shard_is_not_looked_at_again() -> None:
    good = shard("raw", "vectors", 64)
    file = opened("raw", "vectors", bytes([good[0] ^ 1]) + good[1:], good)
    with pytest.raises(Corrupt, match="CRC32C"):
        file.chunk_into(0, np.empty(16 * 32, np.uint8))


def test_a_chunk_that_was_never_written() -> None:
    file = opened("lossless", "vectors", shard("lossless", "vectors", 40))
    with pytest.raises(Corrupt, match="never written"):
        file.chunk_into(3, np.empty(16 * 32, np.uint8))
    assert file.name == layout.shard_name(schema("lossless").fields["vectors"], 3)


# Many chunks at once.

def on_disk(tmp_path: Path, data: bytes, codec: str = "lossless") -> Any:
    held = schema(codec)
    target = tmp_path / layout.shard_name(held.fields["vectors"], 3)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return open_shard(LocalStorage(str(tmp_path)), held, held.fields["vectors"], 3)


def many(file: Any, chunks: list[int]) -> np.ndarray[Any, Any]:
    size = 16 * 8 * 4
    out = np.zeros(5 * size, np.uint8)
    file.chunks_into(np.array(chunks), out, np.arange(len(chunks))[::-1] * size)
    return out.view(np.float32).reshape(5, 16, 8)[:len(chunks)][::-1]


@pytest.mark.parametrize("codec", ["raw", "lossless", "small"])
@pytest.mark.parametrize("batched", [True, False])
def test_many_chunks_are_the_chunks(codec: str, batched: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not batched:
        monkeypatch.setattr("zstore.shards.batch.inflater", lambda: None)
    monkeypatch.setattr("zstore.shards.batch.BATCH_BYTES", 700)         # two or three chunks each
    file = on_disk(tmp_path, shard(codec, "vectors", ROWS), codec)
    for chunks in ([0, 1, 2, 3], [2], [0, 2, 3], [1, 3]):
        assert np.array_equal(many(file, chunks), values(ROWS).reshape(4, 16, 8)[chunks])


def test_sound_chunks_need_no_second_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = on_disk(tmp_path, shard("lossless", "vectors", ROWS))
    monkeypatch.setattr(file, "chunk_into", None)
    assert np.array_equal(many(file, [0, 1, 3]), values(ROWS).reshape(4, 16, 8)[[0, 1, 3]])


def test_damage_anywhere_in_a_batch_is_found_and_the_rest_is_read(tmp_path: Path) -> None:
    sound = shard("lossless", "vectors", ROWS)
    end = on_disk(tmp_path, sound).end
    for at in range(0, end.body_bytes, 7):
        hurt = bytearray(sound)
        hurt[at] ^= 0x10
        file = on_disk(tmp_path, bytes(hurt))
        bad = int(np.searchsorted(end.offsets, at, "right")) - 1
        with pytest.raises(Corrupt, match="CRC32C"):
            many(file, [0, 1, 2, 3])
        rest = [chunk for chunk in range(4) if chunk != bad]
        assert np.array_equal(many(file, rest), values(ROWS).reshape(4, 16, 8)[rest])


def test_a_sound_chunk_that_claims_another_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checksum is right, and its header is a stranger's: nothing may be decoded past its place."""
    held = schema("lossless")
    body = FieldBody(held, held.fields["vectors"])
    body.add(0, values(ROWS), ROWS)
    larger = held.chunk_codec(held.fields["vectors"]).encode(np.zeros(10_000, np.float32).data)
    body._append_chunk(1, larger)
    file = on_disk(tmp_path, b"".join(bytes(part) for part in body.finish(ROWS, STORE, STORE, 3, [])))
    monkeypatch.setattr("zstore.shards.batch.inflater", lambda: pytest.fail)
    with pytest.raises(Corrupt, match="size"):
        many(file, [0, 1])


def test_a_file_cut_short_after_it_was_opened(tmp_path: Path) -> None:
    file = on_disk(tmp_path, shard("lossless", "vectors", ROWS))
    os.truncate(tmp_path / file.name, 40)
    with pytest.raises(Corrupt, match="cut short"):
        many(file, [0, 1])
