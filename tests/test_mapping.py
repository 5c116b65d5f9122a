"""Raw shards are one contiguous ndarray, without a copy; everything else is decoded, and gives the same rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.errors import Corrupt
from zstore.shards.read import ShardFile
from zstore.storage.pages import Range

DIM = 1024          # a row of 4 KiB: shards of four rows tile a mapping at 16 KiB
SHARD = 4
FULL = 20           # rows in full shards


def rows(count: int, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return (np.arange(count * DIM) % 251).reshape(count, DIM).astype(dtype)


def make(url: Path, codec: str = "raw", count: int = FULL + 2, commits: int = 1, dtype: Any = np.float32) -> None:
    everything = rows(count, dtype)
    with zstore.Writer(url, codec=codec, commit_every_s=None, rows_per_shard=SHARD) as writer:
        for part in np.array_split(np.arange(count), commits):
            writer.append(part, everything[part])
            writer.commit()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    url = tmp_path_factory.mktemp("raw") / "a.zarr"
    make(url, commits=3)
    return url


def address(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])


def in_a_file(array: np.ndarray[Any, Any], name: str) -> bool:
    """The array's first byte lies in a mapping of this file."""
    at = address(array)
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, path = [*line.split(maxsplit=5), ""][:6] if len(line.split()) < 6 else line.split(maxsplit=5)
        low, high = (int(edge, 16) for edge in span.split("-"))
        if low <= at < high:
            return name in path
    return False


def test_all_rows_are_one_read_only_array_without_a_copy(raw: Path) -> None:
    reader = zstore.Reader(raw)
    vectors = reader.vectors
    assert type(vectors) is np.ndarray
    assert vectors.flags.c_contiguous
    assert not vectors.flags.owndata
    assert not vectors.flags.writeable
    assert np.array_equal(vectors, rows(FULL + 2))
    with pytest.raises(ValueError, match=r"writeable|WRITEABLE"):
        vectors.flags.writeable = True


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_full_shards_are_the_files_themselves(raw: Path) -> None:
    vectors = zstore.Reader(raw).vectors
    for shard in range(FULL // SHARD):
        assert in_a_file(vectors[shard * SHARD:], f"vectors/c.{shard}.0")


def test_runs_of_rows_share_the_mapping(raw: Path) -> None:
    reader = zstore.Reader(raw)
    vectors, row = reader.vectors, DIM * 4
    for view, first in ((reader.select(slice(3, 17)), 3), (reader.select(np.arange(5, 9)), 5),
                        (reader.select(slice(2, 21)).select(slice(1, 4)), 3), (reader.select([7]), 7)):
        assert np.shares_memory(view.vectors, vectors)
        assert address(view.vectors) == address(vectors) + first * row
    assert np.shares_memory(reader[6:19], vectors)
    assert address(reader[6:19]) == address(vectors) + 6 * row
    at = 0
    for part in reader.batches(5):
        assert address(part.vectors) == address(vectors) + at * row
        at += len(part)
    assert not np.shares_memory(reader[[6, 7]], vectors)        # a list is a copy, as numpy's is
    assert not np.shares_memory(reader[3], vectors)
    assert not np.shares_memory(reader.get([3]), vectors)
    assert not np.shares_memory(reader.select([3, 1]).vectors, vectors)


def test_a_view_of_one_epoch_written_in_one_go_is_no_copy(tmp_path: Path) -> None:
    with zstore.Writer(tmp_path / "e.zarr", codec="raw", commit_every_s=None, rows_per_shard=SHARD) as writer:
        for epoch in range(3):
            writer.append(range(8), rows(8) + epoch, epoch=epoch)
    reader = zstore.Reader(tmp_path / "e.zarr")
    assert address(reader.epoch(1).vectors) == address(reader.vectors) + 8 * DIM * 4
    assert address(reader.latest().vectors) == address(reader.vectors) + 16 * DIM * 4


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int8", "uint8", "bfloat16"])
@pytest.mark.parametrize("codec", ["raw", "lossless", "small"])
def test_every_way_gives_the_same_rows(tmp_path: Path, codec: str, dtype: str) -> None:
    kind = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    make(tmp_path / "a.zarr", codec, dtype=kind)
    wanted = rows(FULL + 2, kind)
    reader = zstore.Reader(tmp_path / "a.zarr")
    assert reader.vectors.dtype == kind
    assert reader.vectors.tobytes() == wanted.tobytes()
    order = np.random.default_rng(1).integers(0, FULL + 2, 50)
    assert reader[order].tobytes() == wanted[order].tobytes()
    assert reader.get(order).tobytes() == wanted[order].tobytes()
    assert b"".join(part.vectors.tobytes() for part in reader.batches(3)) == wanted.tobytes()
    assert reader[::-3].tobytes() == np.ascontiguousarray(wanted[::-3]).tobytes()


def test_a_mapped_and_an_unmapped_reader_agree(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no more maps")
    mapped = zstore.Reader(raw).vectors.copy()
    monkeypatch.setattr("zstore.storage.pages.Range.map_file", refuse)
    monkeypatch.setattr("zstore.storage.pages.Range.map_anonymous", refuse)
    reader = zstore.Reader(raw)
    assert np.array_equal(reader.vectors, mapped)
    assert np.array_equal(reader[[21, 3, 3]], mapped[[21, 3, 3]])
    assert np.array_equal(reader.get(11), mapped[11])


def test_a_system_that_reserves_no_range_serves_from_the_cache(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no address space")
    monkeypatch.setattr("zstore.mapped.Range", refuse)
    reader = zstore.Reader(raw)
    assert np.array_equal(reader.vectors, rows(FULL + 2))
    assert np.array_equal(reader[20], rows(FULL + 2)[20])


@pytest.mark.parametrize("dim", [3, 384])
def test_shards_that_cannot_tile_are_read_the_second_way(tmp_path: Path, dim: int) -> None:
    wanted = np.arange(11 * dim, dtype=np.float32).reshape(11, dim)
    with zstore.Writer(tmp_path / "a.zarr", codec="raw", commit_every_s=None, rows_per_shard=4) as writer:
        writer.append(range(11), wanted)
    reader = zstore.Reader(tmp_path / "a.zarr")
    assert np.array_equal(reader.vectors, wanted)
    assert not reader.vectors.flags.writeable
    assert np.array_equal(reader[[10, 0, 4]], wanted[[10, 0, 4]])


def test_an_array_holds_its_rows_while_the_tail_grows(tmp_path: Path) -> None:
    """The tail's rows do not change under an array that was given out, nor when the shard gets full."""
    url, wanted = tmp_path / "a.zarr", rows(12)
    with zstore.Writer(url, codec="raw", commit_every_s=None, rows_per_shard=SHARD) as writer:
        reader, given = None, []
        for row in range(12):
            writer.append([row], wanted[row:row + 1])
            writer.commit()
            reader = reader or zstore.Reader(url)
            reader.refresh()
            given.append(reader.vectors)
            for count, array in enumerate(given, 1):
                assert np.array_equal(array, wanted[:count])


def test_holes_are_gathered(tmp_path: Path) -> None:
    url, wanted = tmp_path / "a.zarr", rows(14)
    with zstore.Writer(url, codec="raw", commit_every_s=None, rows_per_shard=SHARD) as writer:
        writer.append(range(6), wanted[:6])
        mark = writer.commit()
        writer.append(range(6, 9), wanted[6:9])
    with pytest.warns(UserWarning, match="3 rows are cut"):
        zstore.rollback(url, mark)
    with zstore.Writer(url, commit_every_s=None) as writer:
        writer.append(range(9, 14), wanted[9:])
    reader = zstore.Reader(url)
    assert np.array_equal(reader.vectors, np.concatenate([wanted[:6], wanted[9:]]))
    assert np.shares_memory(reader[1:5], reader[0:6])               # each run by itself is still the mapping
    assert np.array_equal(reader[[6, 5]], wanted[[9, 5]])


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_a_small_cache_reads_everything(tmp_path: Path, codec: str) -> None:
    wanted = np.arange(900 * 16, dtype=np.float32).reshape(900, 16)
    with zstore.Writer(tmp_path / "a.zarr", codec=codec, commit_every_s=None, rows_per_shard=16) as writer:
        writer.append(range(900), wanted, note=[str(i) for i in range(900)])
    reader = zstore.Reader(tmp_path / "a.zarr", cache_bytes=0)
    order = np.random.default_rng(2).permutation(900)
    for _ in range(2):
        assert np.array_equal(reader[order], wanted[order])
        assert np.array_equal(reader.get(order), wanted[order])
    assert reader.get(order[:20], field="note").tolist() == [str(i) for i in order[:20]]


def test_a_scan_leaves_the_cache_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).standard_normal((20_000, 128)).astype(np.float32)      # 10 MB
    with zstore.Writer(tmp_path / "a.zarr", codec="lossless") as writer:
        writer.append(np.arange(len(rows)), rows)
    reader = zstore.Reader(tmp_path / "a.zarr", cache_bytes=1 << 28)
    assert np.array_equal(np.concatenate([part.vectors for part in reader.batches()]), rows)
    assert reader._cache.nbytes <= 1 << 20          # the ragged end alone
    for _ in range(2):
        reader[np.arange(20_000)[::-1].copy()]
    assert reader._cache.nbytes > 9_000_000
    monkeypatch.setattr(reader._columns["vectors"]._chunks, "decode", None)         # what is kept is not decoded again
    assert np.array_equal(reader.select(slice(5, 19_000)).vectors, rows[5:19_000])


def brought(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The shards that are brought from now on, as they are."""
    found: list[int] = []
    bring = Range.bring

    def noted(self: Range, at: int, length: int) -> None:
        assert length == SHARD * DIM * 4
        found.append(at // length)
        bring(self, at, length)
    monkeypatch.setattr(Range, "bring", noted)
    return found


def test_a_batch_brings_the_shards_that_it_covers_once(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards, reader = brought(monkeypatch), zstore.Reader(raw)
    for _ in range(2):
        for view in reader.batches(SHARD):
            assert np.array_equal(view.vectors, reader[np.asarray(view.ids)])
    assert shards == [*range(FULL // SHARD)]            # the tail is a copy


def test_what_may_be_after_single_rows_brings_nothing(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = brought(monkeypatch)
    monkeypatch.setattr("zstore.mapping.PASS_BYTES", FULL * DIM * 4)
    assert len(zstore.Reader(raw).vectors) == FULL + 2
    reader = zstore.Reader(raw)
    assert np.array_equal(reader[[3, 19, 4]], rows(FULL)[[3, 19, 4]])
    assert np.array_equal(reader[1:7], rows(FULL)[1:7])
    assert shards == []
    assert np.array_equal(reader[1:FULL], rows(FULL)[1:])
    assert shards == [1, 2, 3, 4]


def test_rows_that_a_tail_got_while_it_was_copied_are_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "a.zarr", count=2)
    reader = zstore.Reader(tmp_path / "a.zarr")
    into = ShardFile.chunk_into

    def grown(self: ShardFile, *arguments: Any) -> None:
        """As ``begin_again`` where the tail was rewritten meanwhile."""
        into(self, *arguments)
        self.end = replace(self.end, rows=3)

    def grown_too(self: ShardFile, chunks: Any, out: Any, places: Any) -> None:
        for chunk, at in zip(chunks.tolist(), places.tolist(), strict=True):
            grown(self, chunk, out[at:at + self._chunk_bytes])
    monkeypatch.setattr(ShardFile, "chunks_into", grown_too)
    monkeypatch.setattr(ShardFile, "chunk_into", grown)
    assert np.array_equal(reader.vectors, rows(2))
    mapped = reader._now()[0].columns["vectors"]._map
    assert mapped is not None and mapped.ready[0] == 2


@pytest.mark.parametrize("at", [0, 40, 99])
def test_a_damaged_chunk_of_a_tail_is_found_and_named(tmp_path: Path, at: int) -> None:
    with zstore.Writer(tmp_path / "a.zarr", codec="raw", rows_per_shard=1024) as writer:
        writer.append(np.arange(800), rows(800))            # 100 chunks of 8 rows
    file = tmp_path / "a.zarr/vectors/c.0.0"
    data = bytearray(file.read_bytes())
    data[at * 8 * DIM * 4 + 5] ^= 1
    file.write_bytes(data)
    with pytest.raises(Corrupt, match=f"chunk {at} fails its CRC32C"):
        zstore.Reader(tmp_path / "a.zarr").vectors  # noqa: B018
