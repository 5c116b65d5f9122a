"""What is written ahead of a shard's end: only a saving, never what a row rests on."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore._typing import Buffer
from zstore.shards.pieces import PIECE, Pieces
from zstore.storage import open_storage
from zstore.storage.base import Storage
from zstore.storage.growing import GrowingFile
from zstore.writing import ahead as ahead_module
from zstore.writing.ahead import Ahead
from zstore.writing.crew import Crew

DIM, PER_SHARD = 8, 64
NOISE = np.random.default_rng(7).standard_normal((8 * PER_SHARD, DIM), np.float32)      # hardly compresses


def rows(start: int, count: int) -> Any:
    return NOISE[start:start + count]


def read_back(path: Path, count: int) -> None:
    reader = zstore.Reader(path)
    assert len(reader) == count and np.array_equal(reader[:], rows(0, count))
    assert zstore.verify(path) == []


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    made = open_storage(str(tmp_path / "s.zarr"))
    made.make_folders(["_zstore/tmp", "vectors"])
    return made


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of the pieces that went to growing files before their end."""
    seen: list[int] = []
    add = GrowingFile.add

    def noted(self: GrowingFile, parts: Sequence[Buffer]) -> None:
        seen.append(sum(len(part) for part in parts))
        add(self, parts)
    monkeypatch.setattr(GrowingFile, "add", noted)
    return seen


def leftovers(path: Path) -> list[str]:
    return os.listdir(path / "_zstore" / "tmp")


@pytest.mark.parametrize("size", [4, 0])
def test_an_object_is_its_parts_in_order_however_it_was_fed(storage: Storage, sizes: list[int], size: int) -> None:
    crew = Crew(size, "test")
    ahead = Ahead(storage, crew, "t", 4)
    for whole, name in ((b"abcdefghijk", "vectors/a"), (b"abcdefghijklm", "vectors/b")):
        for end in (3, 6, 9):
            ahead.feed([whole[:2], whole[2:end]])
        draft = ahead.finish([whole[:5], whole[5:]])
        assert draft is not None
        storage.replace(draft, name)
        assert storage.read(name) == whole
    assert sum(sizes) == 16 and all(piece % 4 == 0 for piece in sizes)
    crew.stop()


def test_a_storage_without_growing_drafts_writes_whole(tmp_path: Path) -> None:
    ahead = Ahead(open_storage("memory://ahead.zarr"), Crew(1, "test"), "t", 1)
    ahead.feed([b"abc"])
    assert ahead.finish([b"abcd"]) is None


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_vectors_are_written_before_their_shard_ends(tmp_path: Path, sizes: list[int], codec: str) -> None:
    path = tmp_path / "s.zarr"
    with zstore.Writer(path, codec=codec, rows_per_shard=PER_SHARD, commit_every_s=None) as writer:
        for start in range(0, 5 * PER_SHARD, 16):
            writer.append(list(range(start, start + 16)), rows(start, 16))
            if start % 48 == 0:
                writer.commit()
    assert sizes
    assert leftovers(path) == []
    read_back(path, 5 * PER_SHARD)


@pytest.mark.parametrize("codec", ["raw", "lossless"])
@pytest.mark.parametrize("method", ["add", "finish", "begin"])
def test_a_disk_that_fails_ahead_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str,
                                               method: str) -> None:
    path, failed = tmp_path / "s.zarr", []

    def fails(self: Any, *args: Any) -> Any:
        failed.append(method)
        if method != "begin":
            self.discard()
        raise OSError(errno.EIO, "no")
    owner = type(open_storage(str(path))) if method == "begin" else GrowingFile
    monkeypatch.setattr(owner, method, fails)
    with zstore.Writer(path, codec=codec, rows_per_shard=PER_SHARD, commit_every_s=None) as writer:
        for start in range(0, 3 * PER_SHARD, 16):
            writer.append(list(range(start, start + 16)), rows(start, 16))
        writer.commit()
    assert failed and leftovers(path) == []
    read_back(path, 3 * PER_SHARD)


def test_a_writer_that_ends_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    with zstore.Writer(path, codec="raw", rows_per_shard=4096, commit_every_s=None) as writer:
        writer.append(list(range(2048)), np.ones((2048, DIM), np.float32))
        assert writer._core is not None
        pipeline = writer._core.pipeline
        with pipeline.held():
            pipeline.absorb()
            assert pipeline.shard is not None
            pipeline.shard._ahead._write()
            there = leftovers(path)
        pipeline.stop()                         # what a fenced writer does
        assert len(there) == 1 and leftovers(path) == []
    assert len(zstore.Reader(path)) == 2048     # and what is written after all is written whole


def test_an_end_waits_for_no_job(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    crew = Crew(1, "test")
    monkeypatch.setattr(crew, "submit", lambda call: None)      # all of the crew is busy
    ahead = Ahead(storage, crew, "t", 1)
    ahead.feed([b"ab"])
    draft = ahead.finish([b"abc"])
    assert draft is not None
    storage.replace(draft, "vectors/a")
    assert storage.read("vectors/a") == b"abc"


def test_pieces_serve_again() -> None:
    pieces = Pieces()
    taken = [pieces.take() for _ in range(20)]
    assert all(len(piece) == PIECE for piece in taken)
    for number, piece in enumerate(taken):
        piece[:] = bytes([number]) * PIECE
    assert all(piece[0] == piece[-1] == number for number, piece in enumerate(taken))
    pieces.give_back(taken)
    assert {pieces.take()[0] for _ in range(20)} == set(range(20))


def test_parts_between() -> None:
    parts: list[Any] = [b"ab", b"", np.frombuffer(b"cdef", np.uint8), b"g"]
    for start in range(8):
        for stop in range(start, 9):
            got = b"".join(bytes(part) for part in ahead_module._between(parts, start, stop))
            assert got == b"abcdefg"[start:stop]
