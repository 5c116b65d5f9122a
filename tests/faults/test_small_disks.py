"""Real file systems that are full, out of inodes, or broken."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_disk import SmallDisk

import zstore
from zstore.commits import publish
from zstore.testing.faults import fill_up

DIM = 64


@pytest.fixture(params=["ext4", "tmpfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    made = SmallDisk(tmp_path, request.param)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def soon_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "IN_DOUBT_S", 0.2)


def batch(number: int, size: int = 256) -> tuple[Any, Any]:
    ids = np.arange(number * size, (number + 1) * size)
    return ids, np.random.default_rng(number).standard_normal((size, DIM)).astype(np.float32)


def assert_holds(url: str, batches: list[int], **version: Any) -> None:
    with zstore.Reader(url, **version) as reader:
        assert reader.ids.tolist() == [n for number in batches for n in batch(number)[0].tolist()]
        wanted = [batch(number)[1].tobytes() for number in batches]
        assert reader.vectors.tobytes() == b"".join(wanted)


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_disk_full_at_3_am(codec: str, disk: SmallDisk) -> None:
    """One error; every committed row readable, on the full disk; training is free to decide; once there is room, the same
    writer goes on and nothing that it took is missing."""
    url = str(disk.folder / "run.zarr")
    ballast = disk.folder / "other people's data"
    ballast.write_bytes(bytes(3 << 20))
    writer = zstore.Writer(url, codec=codec, rows_per_shard=512, commit_every_s=None)
    taken: list[int] = []
    committed: dict[int, list[int]] = {}
    errors: list[OSError] = []
    while not errors:
        number = len(taken)
        assert number < 1000, "the disk never filled"
        try:
            writer.append(*batch(number))
            taken.append(number)
            if number % 3 == 2:
                commit = writer.commit()
                assert commit is not None
                committed[commit.version] = list(taken)
        except OSError as error:
            errors.append(error)
    (error,) = errors
    assert error.errno == errno.ENOSPC and str(error.filename).startswith(url)
    assert committed
    for version, batches in committed.items():
        assert_holds(url, batches, version=version)
    assert_holds(url, list(committed.values())[-1])

    ballast.unlink()
    try:
        commit = writer.commit()
    except OSError as late:             # what the background met while the disk was full
        assert late.errno == errno.ENOSPC
        commit = writer.commit()
    assert commit is not None and commit.rows == 256 * len(taken)
    writer.append(*batch(len(taken)))
    taken.append(len(taken))
    writer.close()
    assert_holds(url, taken)
    assert zstore.verify(url) == []


def test_a_disk_filled_to_its_last_block(disk: SmallDisk) -> None:
    """Not even an empty file fits: opening, appending and closing fail with one error each, and reading does not."""
    url = str(disk.folder / "run.zarr")
    with zstore.Writer(url, rows_per_shard=512) as writer:
        writer.append(*batch(0))
    ballast = fill_up(str(disk.folder))
    for n in range(2000):               # folders take blocks ahead, and ext4 keeps inodes
        try:
            os.mkdir(disk.folder / f"inode-{n}")
        except OSError as error:
            assert error.errno == errno.ENOSPC
            break
    assert_holds(url, [0])
    with pytest.raises(OSError, match="No space left") as caught, zstore.Writer(url) as writer:
        writer.append(*batch(1))
    assert str(caught.value.filename).startswith(url)
    assert_holds(url, [0])
    os.unlink(ballast)
    with zstore.Writer(url) as writer:
        writer.append(*batch(1))
    assert_holds(url, [0, 1])
    assert zstore.verify(url) == []


def test_a_disk_without_inodes(tmp_path: Path) -> None:
    """There is room, but no file can be made."""
    disk = SmallDisk(tmp_path, "tmpfs", ",nr_inodes=60")
    try:
        url = str(disk.folder / "run.zarr")
        writer = zstore.Writer(url, rows_per_shard=512, commit_every_s=None)
        taken: list[int] = []
        committed: list[int] = []
        with pytest.raises(OSError, match="No space left") as caught:
            while len(taken) < 100:
                writer.append(*batch(len(taken)))
                taken.append(len(taken))
                writer.commit()
                committed = list(taken)
        assert str(caught.value.filename).startswith(url)
        assert committed
        assert_holds(url, committed)
        try:
            writer.close()
        except OSError as error:        # says what it costs; lets go all the same
            assert "No space left" in str(error)
        else:                           # a temporary file that went left its inode: then every batch that was taken is there
            committed = taken
        assert_holds(url, committed)
        assert zstore.verify(url) == []
    finally:
        disk.close()


def test_a_disk_that_turns_read_only(tmp_path: Path) -> None:
    """ext4 does so when its device fails. What is committed is read on; the writer says what is wrong; after a reboot the
    store is what it was."""
    disk = SmallDisk(tmp_path, "ext4")
    try:
        url = str(disk.folder / "run.zarr")
        writer = zstore.Writer(url, rows_per_shard=512, commit_every_s=None)
        writer.append(*batch(0))
        writer.commit()
        writer.append(*batch(1))
        disk.break_down()
        with pytest.raises(OSError) as caught:
            writer.commit()
        assert caught.value.errno in (errno.EROFS, errno.EIO) and str(caught.value.filename).startswith(url)
        assert_holds(url, [0])
        with pytest.raises(OSError):
            writer.close()
        disk.mount_again()
        assert_holds(url, [0])
        with zstore.Writer(url) as again:
            again.append(*batch(1))
        assert_holds(url, [0, 1])
        assert zstore.verify(url) == []
    finally:
        disk.close()


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    """A mount that was made read-only from the start: readers read, a writer is refused in one sentence."""
    disk = SmallDisk(tmp_path, "ext4")
    try:
        url = str(disk.folder / "run.zarr")
        with zstore.Writer(url, rows_per_shard=512) as writer:
            writer.append(*batch(0))
        disk._options = ",ro"
        disk.mount_again()
        assert_holds(url, [0])
        assert zstore.verify(url) == []
        with pytest.raises(PermissionError, match=url):
            zstore.Writer(url)
    finally:
        disk.close()


def test_a_full_cache_folder(disk: SmallDisk, s3: Any) -> None:
    """Costs speed and one notice, never a row; and once there is room again it serves."""
    url = s3.url()
    with zstore.Writer(url, rows_per_shard=512, storage_options=s3.options) as writer:
        for number in range(4):
            writer.append(*batch(number))
    cache = disk.folder / "cache"
    ballast = None
    for full in (False, True, False):
        if full:
            ballast = fill_up(str(disk.folder))
        with warnings.catch_warnings(record=True) as notices:
            warnings.simplefilter("always")
            assert_holds(url, [0, 1, 2, 3], cache_dir=cache, storage_options=s3.options)
        assert len(notices) <= full
        if ballast is not None:
            os.unlink(ballast)
            ballast = None
        if full:
            shutil.rmtree(cache)
    kept = [path for path in cache.rglob("*") if len(path.name) == 64]
    assert kept
    for path in kept:                   # cut off by a disk that was full
        path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2])
    assert_holds(url, [0, 1, 2, 3], cache_dir=cache, storage_options=s3.options)


def test_a_cache_folder_on_a_disk_that_was_always_full(disk: SmallDisk, s3: Any) -> None:
    url = s3.url()
    with zstore.Writer(url, rows_per_shard=512, storage_options=s3.options) as writer:
        writer.append(*batch(0))
    ballast = fill_up(str(disk.folder))
    with warnings.catch_warnings(record=True) as notices:
        warnings.simplefilter("always")
        assert_holds(url, [0], cache_dir=disk.folder / "cache", storage_options=s3.options)
    # tmpfs has room for empty folders: there it is a cache of no bytes.
    assert [f"cache folder {disk.folder}/cache can't be written" in str(notice.message) for notice in notices] == (
        [True] if disk.kind == "ext4" else [])
    os.unlink(ballast)
