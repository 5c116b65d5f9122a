"""The next shard is claimed ahead of its need: only where there are rows for it, once, and nobody is given what is left."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.commits.claims import claim_shard
from zstore.commits.log import Log
from zstore.errors import StaleWriter
from zstore.storage import open_storage
from zstore.writing import claiming, registry
from zstore.writing.pipeline import Pipeline

DIM, PER_SHARD = 4, 64
CODECS = pytest.mark.parametrize("codec", ["raw", "lossless"])


def rows(start: int, count: int) -> Any:
    return np.arange(start * DIM, (start + count) * DIM, dtype=np.float32).reshape(count, DIM)


def writer_at(path: Path, codec: str = "raw", **more: Any) -> zstore.Writer:
    return zstore.Writer(path, codec=codec, rows_per_shard=PER_SHARD, commit_every_s=None, **more)


def append(writer: zstore.Writer, start: int, count: int) -> None:
    writer.append(list(range(start, start + count)), rows(start, count))


def pipeline_of(writer: zstore.Writer) -> Pipeline:
    assert writer._core is not None
    return writer._core.pipeline


def claim_ahead(writer: zstore.Writer) -> None:
    """As if there were rows for another shard, and wait until it is claimed."""
    shards = pipeline_of(writer).shards
    shards.claim_ahead()
    assert shards._claim is not None
    shards._claim.wait()


def claims(path: Path) -> list[str]:
    return sorted(entry.name for entry in (path / "_zstore" / "claims").iterdir())


def extents(path: Path) -> Any:
    return tuple(Log(open_storage(str(path))).head().extents.pairs)


def names(*shards: int) -> list[str]:
    return [f"{shard}.json" for shard in shards]


@CODECS
def test_later_shards_are_claimed_beside_the_encoder(tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by: dict[int, str] = {}

    def noted(*args: Any) -> int:
        number = claim_shard(*args)
        by[number] = threading.current_thread().name.rpartition("-")[0]
        return number
    monkeypatch.setattr(claiming, "claim_shard", noted)
    with writer_at(tmp_path / "s.zarr", codec) as writer:
        append(writer, 0, 3 * PER_SHARD)        # one batch: all of its rows are there when the first block is encoded
        writer.commit()
    assert by[1] == by[2] == "zstore-write" != by[0]


@CODECS
@pytest.mark.parametrize("more", [0, 1])
def test_nothing_is_claimed_without_rows(tmp_path: Path, codec: str, more: int) -> None:
    path = tmp_path / "s.zarr"
    with writer_at(path, codec) as writer:
        for start in range(0, 3 * PER_SHARD, 16):
            append(writer, start, 16)
        append(writer, 3 * PER_SHARD, more)
        writer.commit()
        assert claims(path) == names(*range(3 + more))
    assert claims(path) == names(*range(3 + more)) and np.array_equal(zstore.Reader(path)[:], rows(0, 3 * PER_SHARD + more))


def test_one_claim_is_ahead_and_the_next_shard_takes_it(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    with writer_at(path) as writer:
        append(writer, 0, PER_SHARD)
        writer.commit()
        claim_ahead(writer)
        claim_ahead(writer)
        assert claims(path) == names(0, 1)
        append(writer, PER_SHARD, 1)
        writer.commit()
    assert claims(path) == names(0, 1) and extents(path) == ((0, PER_SHARD + 1),)


def test_a_claim_ahead_that_failed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, failed = tmp_path / "s.zarr", list[int]()

    def fails_once(storage: Any, session: Any, start: int, likely: bool = False) -> int:
        if start == 1 and not failed:
            failed.append(start)
            raise OSError(errno.EIO, "no")
        return claim_shard(storage, session, start, likely)
    monkeypatch.setattr(claiming, "claim_shard", fails_once)
    with writer_at(path) as writer:
        append(writer, 0, PER_SHARD)
        writer.commit()
        pipeline_of(writer).shards.claim_ahead()
        append(writer, PER_SHARD, 1)
        with pytest.raises(OSError, match="no"):
            writer.commit()
        writer.commit()
    assert failed and claims(path) == names(0, 1) and np.array_equal(zstore.Reader(path)[:], rows(0, PER_SHARD + 1))


def test_a_rollback_gives_nobody_what_was_claimed_ahead(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    with writer_at(path) as writer:
        append(writer, 0, PER_SHARD)
        mark = writer.state_dict()
    with writer_at(path) as writer:
        claim_ahead(writer)
        writer.load_state_dict(mark)
        append(writer, PER_SHARD, 1)
        writer.commit()
    assert claims(path) == names(0, 1, 2)
    assert extents(path) == ((0, PER_SHARD), (2 * PER_SHARD, 1))
    assert zstore.verify(path) == []


def test_who_takes_over_is_not_given_what_was_claimed_ahead(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    with writer_at(path) as first:
        append(first, 0, PER_SHARD)
        mark = first.state_dict()
    fenced = writer_at(path, session="one")
    registry.leave(fenced.url, fenced)          # as if it were another process's
    claim_ahead(fenced)
    with writer_at(path, session="two", takeover=True, at=mark) as writer:
        append(writer, PER_SHARD, 2)
        writer.commit()
        append(fenced, 9 * PER_SHARD, PER_SHARD)        # a whole shard, written into its own claim in the background
        with pytest.raises(StaleWriter):
            fenced.commit()
        append(writer, PER_SHARD + 2, 2)
    with pytest.raises(StaleWriter):
        fenced.close()
    assert np.array_equal(zstore.Reader(path)[:], rows(0, PER_SHARD + 4))
    assert extents(path) == ((0, PER_SHARD), (2 * PER_SHARD, 4))


def test_a_tail_below_a_claim_that_was_left_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    with writer_at(path) as writer:
        append(writer, 0, 3)
        writer.commit()
        claim_ahead(writer)
    with writer_at(path) as writer:
        append(writer, 3, 3)
    assert claims(path) == names(0, 1, 2) and np.array_equal(zstore.Reader(path)[:], rows(0, 6))
    assert extents(path) == ((0, 3), (2 * PER_SHARD, 3))
