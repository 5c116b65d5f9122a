"""Disks that fill up, folders that do not sync, threads that press: nothing is lost, doubled or torn."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.commits import publish
from zstore.errors import InDoubt, StaleWriter
from zstore.storage.local import LocalStorage

CODECS = ["raw", "lossless"]


class Disk:
    """Makes calls of LocalStorage fail while a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.bad_folder: str | None = None
        draft, sync = LocalStorage.draft, LocalStorage.sync

        def failing_draft(storage: LocalStorage, *args: Any, **kwargs: Any) -> Any:
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return draft(storage, *args, **kwargs)

        def failing_sync(storage: LocalStorage, folders: Any) -> None:
            folders = list(folders)
            if self.bad_folder in folders:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            sync(storage, folders)

        monkeypatch.setattr(LocalStorage, "draft", failing_draft)
        monkeypatch.setattr(LocalStorage, "sync", failing_sync)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    monkeypatch.setattr(publish, "IN_DOUBT_S", 0.2)
    yield Disk(monkeypatch)


def rows(start: int, count: int) -> tuple[Any, Any]:
    """Ids, and vectors that say which id they belong to."""
    ids = np.arange(start, start + count)
    return ids, np.repeat(ids[:, None], 8, axis=1).astype(np.float32)


def assert_holds(url: str, ids: list[int], *, ordered: bool = True) -> None:
    """Exactly these rows, each with its own vector, and found by its key."""
    reader = zstore.Reader(url)
    assert (reader.ids.tolist() if ordered else sorted(reader.ids.tolist())) == ids
    assert (reader.vectors == reader.ids[:, None]).all()
    assert (reader.get(ids) == np.array(ids)[:, None]).all() if ids else True


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("threads", [1, 4])
def test_backpressure(url: str, codec: str, threads: int, sound: Callable[[str], None]) -> None:
    """Tiny shards, a commit now and then, several threads: every row exactly once, each batch in one piece."""
    each, size = 60, 7
    with zstore.Writer(url, codec=codec, rows_per_shard=16, commit_every_s=None) as writer:
        def work(number: int) -> None:
            for batch in range(each):
                writer.append(*rows((number * each + batch) * size, size))
                if batch % 25 == 24:
                    writer.commit()
        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert_holds(url, list(range(threads * each * size)), ordered=threads == 1)
    starts = zstore.Reader(url).ids.reshape(-1, size)
    assert (starts == starts[:, :1] + np.arange(size)).all()
    sound(url)


@pytest.mark.parametrize("codec", CODECS)
def test_a_commit_under_load_ends_and_is_right(url: str, codec: str, sound: Callable[[str], None]) -> None:
    """A loop that appends as fast as it can must not keep another thread's commit waiting, nor be cut inside a batch."""
    stop = threading.Event()
    count = 0
    with zstore.Writer(url, codec=codec, rows_per_shard=64, commit_every_s=None) as writer:
        writer.append(*rows(0, 5))

        def press() -> None:
            nonlocal count
            count = 5
            while not stop.is_set():
                writer.append(*rows(count, 5))
                count += 5
        worker = threading.Thread(target=press)
        worker.start()
        try:
            for _ in range(25):
                commit = writer.commit()
                assert commit is not None and commit.rows % 5 == 0
                assert_holds(url, list(range(commit.rows)))
        finally:
            stop.set()
            worker.join()
    assert_holds(url, list(range(count)))
    sound(url)


@pytest.mark.parametrize("codec", CODECS)
def test_a_batch_larger_than_the_bound(url: str, codec: str, sound: Callable[[str], None]) -> None:
    with zstore.Writer(url, codec=codec, rows_per_shard=16, commit_every_s=None) as writer:
        writer.append(*rows(0, 1000))
        writer.append(*rows(1000, 3))
        writer.append(*rows(1003, 500))
        assert writer._core is not None
        writer.commit()
        assert writer._core.pipeline._pool._made <= writer._core.pipeline._pool._limit    # what was beyond it is let go
    assert_holds(url, list(range(1503)))
    sound(url)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [3, 200])
def test_a_full_disk_that_recovers(url: str, codec: str, size: int, disk: Disk, sound: Callable[[str], None]) -> None:
    """The error comes to the caller's thread; a refused batch is refused whole; what was taken is all there."""
    taken: list[int] = []
    refused = at = 0

    def append() -> None:
        nonlocal refused, at
        ids, vectors = rows(at, size)
        at += size
        try:
            writer.append(ids, vectors)
            taken.extend(ids.tolist())
        except OSError as error:
            assert error.errno == errno.ENOSPC
            refused += 1

    writer = zstore.Writer(url, codec=codec, rows_per_shard=16, commit_every_s=None)
    append()
    before = writer.commit()
    disk.full = True
    while refused < 3:
        append()
    with pytest.raises(OSError, match="No space"):
        writer.commit()
    assert before is not None and zstore.Reader(url).version == before.version      # what failed is invisible
    disk.full = False
    while True:
        try:
            commit = writer.commit()
            break
        except OSError as error:
            assert error.errno == errno.ENOSPC          # what the background met while the disk was full
    assert commit is not None and commit.rows == len(taken)
    append()
    writer.close()
    assert_holds(url, taken)
    sound(url)


def test_a_full_disk_at_close_is_said(url: str, disk: Disk, sound: Callable[[str], None]) -> None:
    writer = zstore.Writer(url, rows_per_shard=16, commit_every_s=None)
    writer.append(*rows(0, 20))
    writer.commit()
    writer.append(*rows(20, 5))
    disk.full = True
    with pytest.raises(OSError, match="No space"):
        writer.close()
    disk.full = False
    assert_holds(url, list(range(20)))
    with zstore.Writer(url) as again:        # the failed one let go of the store
        again.append(*rows(20, 5))
    assert_holds(url, list(range(25)))
    sound(url)


def test_an_error_of_the_clock_surfaces_at_the_next_call(url: str, disk: Disk) -> None:
    writer = zstore.Writer(url, rows_per_shard=16, commit_every_s=None)
    writer.append(*rows(0, 5))
    disk.full = True
    writer._commit_by_clock()
    disk.full = False
    with pytest.raises(OSError, match="No space"):
        writer.append(*rows(5, 5))
    writer.append(*rows(5, 5))
    writer.close()
    assert_holds(url, list(range(10)))


def test_a_disk_that_is_full_before_the_store_is_there(url: str, disk: Disk, sound: Callable[[str], None]) -> None:
    writer = zstore.Writer(url, rows_per_shard=16)
    disk.full = True
    with pytest.raises(OSError, match="No space"):
        writer.append(*rows(0, 5))
    disk.full = False
    writer.append(*rows(0, 5))
    writer.close()
    assert_holds(url, list(range(5)))
    sound(url)


def test_a_failed_sync_of_the_records_is_in_doubt(url: str, disk: Disk, sound: Callable[[str], None]) -> None:
    """The record may be on the disk or not: the writer says so, and writes no more."""
    writer = zstore.Writer(url, rows_per_shard=16, commit_every_s=None)
    writer.append(*rows(0, 5))
    writer.commit()
    writer.append(*rows(5, 5))
    disk.bad_folder = "_zstore/commits"
    with pytest.raises(InDoubt, match=r"version 2 .* wholly or not at all"):
        writer.commit()
    disk.bad_folder = None
    before = sorted(path.name for path in (Path(url) / "_zstore/commits").iterdir())
    for call in (writer.commit, writer.state_dict, lambda: writer.append(*rows(10, 5)), writer.close):
        with pytest.raises(InDoubt):
            call()
    assert sorted(path.name for path in (Path(url) / "_zstore/commits").iterdir()) == before
    with zstore.Writer(url) as again:        # to open again is to see which
        again.append(*rows(len(zstore.Reader(url)), 5))
    assert_holds(url, list(range(15)))
    sound(url)


def test_a_sync_that_fails_for_a_moment_is_no_failure(url: str, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = zstore.Writer(url, rows_per_shard=16, commit_every_s=None)
    writer.append(*rows(0, 5))
    writer.commit()
    writer.append(*rows(5, 5))
    disk.bad_folder = "_zstore/commits"
    slept: list[float] = []

    def recover(seconds: float) -> None:
        slept.append(seconds)
        disk.bad_folder = None
    monkeypatch.setattr(publish.create_record, "__kwdefaults__", {"sleep": recover})
    commit = writer.commit()
    assert slept and commit is not None and commit.version == 2
    writer.close()
    assert_holds(url, list(range(10)))


@pytest.mark.parametrize("folder", ["vectors", "_zstore/index"])
def test_a_failed_sync_of_data_publishes_nothing(url: str, folder: str, disk: Disk) -> None:
    writer = zstore.Writer(url, rows_per_shard=16, commit_every_s=None)
    writer.append(*rows(0, 20))
    writer.commit()
    writer.append(*rows(20, 20))
    disk.bad_folder = folder
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            writer.commit()
    assert zstore.Reader(url).version == 1
    disk.bad_folder = None
    writer.close()
    assert_holds(url, list(range(40)))


def test_a_failed_projection_is_a_warning_never_a_failed_commit(url: str, monkeypatch: pytest.MonkeyPatch,
                                                                sound: Callable[[str], None]) -> None:
    with zstore.Writer(url, rows_per_shard=16, commit_every_s=None) as writer:
        writer.append(*rows(0, 5))
        writer.commit()
        replace = LocalStorage.replace

        def failing(storage: LocalStorage, draft: Any, name: str, **options: Any) -> None:
            if name.endswith("zarr.json"):
                storage.discard(draft)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            replace(storage, draft, name, **options)
        monkeypatch.setattr(LocalStorage, "replace", failing)
        writer.append(*rows(5, 5))
        with pytest.warns(UserWarning, match="the rows are committed, but Zarr's documents could not"):
            commit = writer.commit()
        assert commit is not None and commit.rows == 10
        assert_holds(url, list(range(10)))
        monkeypatch.setattr(LocalStorage, "replace", replace)
    assert_holds(url, list(range(10)))
    sound(url)


@pytest.mark.parametrize("when", ["commit", "claim"])
def test_the_fence(url: str, when: str, children: Any, sound: Callable[[str], None]) -> None:
    old = zstore.Writer(url, rows_per_shard=16, commit_every_s=None, codec="raw")
    old.append(*rows(0, 5))
    old.commit()
    children.run("""
        import sys, numpy as np, zstore
        with zstore.Writer(sys.argv[1], takeover=True) as writer:
            writer.append(np.arange(100, 105), np.repeat(np.arange(100, 105)[:, None], 8, axis=1).astype("f4"))
    """, url)
    shards = {path: path.read_bytes() for path in Path(url).glob("*/c.*")}
    with pytest.raises(StaleWriter, match=r"taken over by pid \d+ on .*this writer \(opened as version 0\) can write no more"):
        if when == "commit":
            old.append(*rows(5, 2))
            old.commit()
        else:
            for start in range(5, 5000, 20):        # whole shards: sooner or later one is claimed in the background
                old.append(*rows(start, 20))
    for call in (old.commit, lambda: old.append(*rows(0, 1)), old.state_dict, old.close):
        with pytest.raises(StaleWriter):
            call()
    if when == "claim":
        taken_over = {path: path.read_bytes() for path in Path(url).glob("*/c.1*")}
        assert all(shards.get(path) == data for path, data in taken_over.items())
    assert_holds(url, [0, 1, 2, 3, 4, *range(100, 105)])
    sound(url)


def test_rows_that_come_in_while_a_wasteful_shard_is_left(url: str, monkeypatch: pytest.MonkeyPatch,
                                                          sound: Callable[[str], None]) -> None:
    """A block fills, and is encoded, between the write of the tail and the decision to leave it: its rows stay."""
    from zstore.writing import committer

    rng, put, seen = np.random.default_rng(0), 0, []
    publish = committer.publish

    def append(writer: zstore.Writer, count: int) -> None:
        nonlocal put
        writer.append(np.arange(put, put + count), rng.standard_normal((count, 8)).astype(np.float32))
        put += count

    def slowly(*args: Any) -> Any:
        record, pipeline = publish(*args), writer._core.pipeline
        if not seen and pipeline.shard is not None and pipeline.shard.is_wasteful and pipeline._filling is not None:
            thread = threading.Thread(target=append, args=(writer, pipeline._filling.rows - pipeline._filling.filled))
            thread.start()
            thread.join()
            while pipeline.shard.rows == pipeline.shard.written:        # until the worker has encoded them
                time.sleep(0.001)
            seen.append(pipeline.shard.rows)
        return record

    monkeypatch.setattr(committer, "publish", slowly)
    with zstore.Writer(url, codec="lossless", rows_per_shard=4096, commit_every_s=None) as writer:
        append(writer, 900)
        for _ in range(60):
            append(writer, 3)
            writer.commit()
        assert seen
    assert zstore.Reader(url).ids.tolist() == list(range(put))
    sound(url)
