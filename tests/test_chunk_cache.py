"""``cache_dir``: what a distant store sent, in files: bounded, shared, and never a stale, foreign or damaged byte."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.format.schema import Schema
from zstore.shards.read import ShardFile, open_shard
from zstore.storage import chunk_cache
from zstore.storage.chunk_cache import BINS, ChunkCache
from zstore.storage.local import LocalStorage
from zstore.testing.distant import DistantStorage

DIM = 2048              # a row of 8 KiB: a chunk has 4 rows
SHARD = 16
ROOT = Path(__file__).parents[1]


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if len(path.name) == 64)


def taken(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "kept"


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set the bound of caches that are made from now on, and mark every use."""
    def to(nbytes: int) -> None:
        monkeypatch.setattr(chunk_cache, "MOST_BYTES", nbytes)
        monkeypatch.setattr(chunk_cache, "TOUCH_S", -1.0)
    return to


# The folder alone.

def test_what_is_put_is_there_for_everyone_and_nothing_else(folder: Path) -> None:
    cache = ChunkCache(folder, "s3://a")
    assert cache.get(b"key") is None
    cache.put([(b"key", b"bytes"), (b"other", b""), (b"array", np.arange(4, dtype=np.int8))])
    assert cache.get(b"key") == b"bytes"
    assert cache.get(b"key", 5) == ChunkCache(folder, "s3://a").get(b"key", 5) == b"bytes"
    assert cache.get(b"other") == b""
    assert cache.get(b"array") == bytes(range(4))
    assert ChunkCache(folder, "s3://b").get(b"key") is None
    assert cache.get(b"ke") is cache.get(b"key2") is cache.get(b"") is None
    cache.put([(b"key", b"other bytes")])                   # a key names its bytes for ever
    assert cache.get(b"key") == b"bytes"
    names = [path.relative_to(folder).parts for path in folder.rglob("*")]
    assert all(part == "zstore-1" or part.isalnum() for name in names for part in name)


def test_names_of_a_store_reach_no_path(folder: Path) -> None:
    cache = ChunkCache(folder, "s3://../../x")
    cache.put([(b"../../../escaped", b"1"), (b"/etc/escaped", b"2"), (b"a\0b" * 1000, b"3")])
    assert len(files_of(folder)) == 3
    assert not [path for path in folder.parent.rglob("*") if "escaped" in path.name]
    assert cache.get(b"a\0b" * 1000) == b"3"


def test_every_flipped_byte_and_every_length_is_a_miss(folder: Path) -> None:
    cache = ChunkCache(folder)
    cache.put([(b"key", bytes(range(40)))])
    file, = files_of(folder)
    good = file.read_bytes()
    bad = [good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1:] for at in range(len(good))]
    bad += [good[:length] for length in range(len(good))] + [good + b"\0", bytes(len(good))]
    for data in bad:
        file.write_bytes(data)
        assert cache.get(b"key") is None
        assert not file.exists()                            # and it is not looked at again
    file.write_bytes(good)
    assert cache.get(b"key") == bytes(range(40))
    assert cache.get(b"key", 39) is None


def test_swapped_files_and_other_things_in_their_place_are_misses(folder: Path) -> None:
    cache, other = ChunkCache(folder, "one"), ChunkCache(folder, "two")
    cache.put([(b"a", b"first")])
    first, = files_of(folder)
    cache.put([(b"b", b"second")])
    second, = set(files_of(folder)) - {first}
    other.put([(b"a", b"third!")])
    third, = set(files_of(folder)) - {first, second}
    for source in (second, third):
        shutil.copyfile(source, first)
        assert cache.get(b"a") is None
    os.mkfifo(first)                                        # opening it must not wait for a writer
    assert cache.get(b"a") is None
    first.symlink_to(second)
    assert cache.get(b"b") == b"second"
    assert cache.get(b"a") is None
    first.mkdir()
    assert cache.get(b"a") is None
    assert cache.get(b"b") == b"second"


def test_the_bound_holds_and_what_was_used_longest_ago_goes(folder: Path, bounded: Callable[[int], None]) -> None:
    bounded(BINS * 64 << 10)
    cache = ChunkCache(folder)
    assert cache.limit == BINS * 64 << 10
    body = os.urandom(3500)
    hot = [b"hot-%d" % i for i in range(8)]
    cache.put([(key, body) for key in hot])
    for at in range(0, 1000, 10):
        cache.put([(b"%d" % i, body) for i in range(at, at + 10)])
        assert taken(folder) <= cache.limit + BINS * 20
        assert [cache.get(key) for key in hot] == [body] * 8
    assert taken(folder) > cache.limit // 2
    assert cache.get(b"0") is None
    assert cache.get(b"999") == body
    cache.put([(b"large", bytes(cache.limit))])             # larger than it may be
    assert cache.get(b"large") is None
    assert cache.get(b"999") == body


def test_a_count_that_is_lost_or_wrong_is_made_anew(folder: Path, bounded: Callable[[int], None]) -> None:
    bounded(BINS * 64 << 10)
    cache = ChunkCache(folder)
    body = os.urandom(3500)
    for text in (None, b"", b"-0000000000000000001", b"99999999999999999999", b"x" * 30):
        for count in folder.rglob("bytes"):
            count.unlink() if text is None else count.write_bytes(text)
        cache.put([(os.urandom(8), body) for _ in range(400)])
        assert taken(folder) <= cache.limit + BINS * 20
        assert len(files_of(folder)) > 100


def test_what_a_killed_writer_left_goes(folder: Path, bounded: Callable[[int], None]) -> None:
    bounded(BINS * 64 << 10)
    cache = ChunkCache(folder)
    cache.put([(b"%d" % i, b"x") for i in range(200)])
    for at in range(BINS):
        (folder / "zstore-1" / f"{at:02}" / "draft-left").write_bytes(bytes(70 << 10))
    for _ in range(60):
        cache.put([(os.urandom(8), bytes(3500)) for _ in range(20)])
    assert not list(folder.rglob("draft-*"))
    assert taken(folder) <= cache.limit + BINS * 20


def busy(folder: str, seed: int, rounds: int, pipe: Any) -> None:
    chunk_cache.MOST_BYTES = BINS * 64 << 10
    cache, wrong, hits = ChunkCache(folder), 0, 0
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        keys = [b"%d" % key for key in rng.integers(0, 400, 12)]
        for key in keys:
            data = cache.get(key)
            hits += data is not None
            wrong += data is not None and data != key * 700
        cache.put([(key, key * 700) for key in keys])
    pipe.send((wrong, hits))


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_many_processes_share_one_folder(folder: Path, how: str) -> None:
    context = multiprocessing.get_context(how)
    pipes = [context.Pipe(duplex=False) for _ in range(3)]
    children = [context.Process(target=busy, args=(str(folder), seed, 60, pipe[1])) for seed, pipe in enumerate(pipes)]
    for child in children:
        child.start()
    try:
        for ours, _ in pipes:
            assert ours.poll(60)
            wrong, hits = ours.recv()
            assert wrong == 0
            assert hits > 0
    finally:
        for child in children:
            child.join(30)
            child.kill()
    assert taken(folder) <= (BINS * 64 << 10) + BINS * 20


def test_a_writer_that_was_killed_with_the_lock_is_in_nobody_s_way(folder: Path, children: Any) -> None:
    child = children.start("""
        import sys, time
        from zstore.storage import chunk_cache
        def stop(path, pieces):
            if path.endswith("bytes"):
                return real(path, pieces)
            print("in", flush=True)
            time.sleep(600)
        real, chunk_cache._write = chunk_cache._write, stop
        chunk_cache.ChunkCache(sys.argv[1]).put([(b"key", b"bytes")])
    """, folder)
    assert children.line(child).strip() == "in"
    cache = ChunkCache(folder)
    chunk_cache.LOCK_WAIT_S, waited = 0.05, chunk_cache.LOCK_WAIT_S
    try:
        cache.put([(b"key", b"bytes")])                     # it has the lock: we go on without
        assert cache.get(b"key") is None
    finally:
        chunk_cache.LOCK_WAIT_S = waited
    child.kill()
    child.wait()
    cache = ChunkCache(folder)
    cache.put([(b"key", b"bytes")])
    assert cache.get(b"key") == b"bytes"


# What may become of the folder.

def heard(act: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EACCES])
def test_a_folder_that_can_t_be_written_any_more_costs_one_notice(folder: Path, monkeypatch: pytest.MonkeyPatch,
                                                                  number: int) -> None:
    cache = ChunkCache(folder)
    cache.put([(b"before", b"kept")])

    def fail(descriptor: int, parts: Any) -> None:
        os.write(descriptor, b"half")
        raise OSError(number, os.strerror(number))
    monkeypatch.setattr(chunk_cache, "write_all", fail)
    monkeypatch.setattr(chunk_cache, "REST_S", 0.0)
    said = [message for _ in range(3) for message in heard(lambda: cache.put([(b"key", b"bytes")]))]
    assert len(said) == 1
    assert str(folder) in said[0]
    assert os.strerror(number) in said[0]
    assert cache.get(b"key") is None
    assert cache.get(b"before") == b"kept"
    assert not list(folder.rglob("draft-*"))
    monkeypatch.undo()
    assert heard(lambda: cache.put([(b"key", b"bytes")])) == []
    assert cache.get(b"key") == b"bytes"


def test_a_folder_that_was_deleted_is_made_again(folder: Path) -> None:
    cache = ChunkCache(folder)
    cache.put([(b"key", b"bytes")])
    shutil.rmtree(folder)
    assert cache.get(b"key") is None
    assert heard(lambda: cache.put([(b"key", b"bytes")])) == []
    assert cache.get(b"key") == b"bytes"
    shutil.rmtree(folder)
    folder.write_text("a file")
    assert cache.get(b"key") is None
    assert len(heard(lambda: cache.put([(b"key", b"bytes")]))) == 1


def test_an_unreadable_file_is_a_miss(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ChunkCache(folder)
    cache.put([(b"key", b"bytes")])

    def fail(*_: Any) -> bytes:
        raise OSError(errno.EIO, "input/output error")
    monkeypatch.setattr(chunk_cache, "read_at", fail)
    assert cache.get(b"key") is None
    assert files_of(folder) == []


def test_at_the_door(tmp_path: Path, distant: Any) -> None:
    make(tmp_path / "a.zarr", 3)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"cache_dir .*file can't be used"):
        distant(tmp_path / "a.zarr", cache_dir=tmp_path / "file")
    with pytest.raises(NotADirectoryError, match=r"cache_dir .*below can't be used"):
        distant(tmp_path / "a.zarr", cache_dir=tmp_path / "file" / "below")
    with pytest.raises(ValueError, match="must name a folder"):
        distant(tmp_path / "a.zarr", cache_dir="")
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o500)
    if os.geteuid():
        with pytest.raises(PermissionError, match=r"cache_dir .*shut can't be used"):
            distant(tmp_path / "a.zarr", cache_dir=shut)


def test_a_folder_on_a_read_only_disk_is_refused_and_a_full_one_is_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(number: int) -> Callable[..., None]:
        def fail(*_: Any, **__: Any) -> None:
            raise OSError(number, os.strerror(number))
        return fail
    monkeypatch.setattr(os, "makedirs", fails(errno.EROFS))
    with pytest.raises(OSError, match="can't be used: Read-only file system; give a folder"):
        ChunkCache(folder)
    monkeypatch.setattr(os, "makedirs", fails(errno.ENOSPC))
    said: list[ChunkCache] = []
    assert len(heard(lambda: said.append(ChunkCache(folder)))) == 1
    assert said[0].get(b"key") is None


# A reader with one.

def rows(first: int, count: int, seed: int = 7) -> np.ndarray[Any, Any]:
    noise = np.random.default_rng(seed).integers(0, 100, (120, DIM))[first:first + count]
    return noise.astype(np.float32)


def make(url: Any, count: int, codec: str = "lossless", first: int = 0, seed: int = 7, **options: Any) -> None:
    with zstore.Writer(url, codec=codec if first == 0 else None, commit_every_s=None, **options,
                       **({"rows_per_shard": SHARD} if first == 0 else {})) as writer:
        writer.append(np.arange(first, first + count), rows(first, count, seed))


@pytest.fixture
def distant(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[zstore.Reader, DistantStorage]]:
    """Open a local store as a distant one, with an empty memory cache; as if it were at ``at``."""
    def opened(url: Any, at: str | None = None, **options: Any) -> tuple[zstore.Reader, DistantStorage]:
        storage = DistantStorage(url)
        storage.url = at or storage.url
        monkeypatch.setattr("zstore.reader.open_storage", lambda *_: storage)
        reader = zstore.Reader(url, **{"cache_bytes": 1 << 26, **options})
        storage.take_log()
        return reader, storage
    return opened


def fetched(storage: DistantStorage, name: str = "vectors") -> int:
    return len(storage.take_log("range", name=name))


@pytest.mark.parametrize("codec", ["raw", "lossless", "small"])
def test_a_second_reader_fetches_no_full_chunk(url: str, folder: Path, distant: Any, codec: str) -> None:
    make(url, 37, codec)
    reader, storage = distant(url, cache_dir=folder)
    assert reader.vectors.tobytes() == rows(0, 37).tobytes()
    assert fetched(storage) == 10
    assert reader.get(3).tobytes() == rows(3, 1).tobytes()
    again, storage = distant(url, cache_dir=folder)
    assert again.vectors.tobytes() == rows(0, 37).tobytes()
    assert again.get([3, 36]).tobytes() == rows(0, 37)[[3, 36]].tobytes()
    log = storage.take_log()
    assert len([r for r in log if r.kind == "range" and "vectors" in r.name]) == 1       # the partial chunk of the tail
    assert not [r for r in log if "index" in r.name]                                     # runs are kept too
    without, storage = distant(url)
    assert without.vectors.tobytes() == rows(0, 37).tobytes()
    assert fetched(storage) == 10


def test_a_near_store_does_not_look_at_it(url: str, tmp_path: Path) -> None:
    make(url, 37)
    (tmp_path / "file").write_text("")
    assert zstore.Reader(url, cache_dir=tmp_path / "file").vectors.tobytes() == rows(0, 37).tobytes()
    assert zstore.Reader(url, cache_dir=tmp_path / "none")[3].tobytes() == rows(3, 1).tobytes()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_damaged_files_never_give_a_wrong_row(url: str, folder: Path, distant: Any, codec: str) -> None:
    make(url, 37, codec)
    assert len(distant(url, cache_dir=folder)[0].vectors) == 37
    for file in files_of(folder):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 8
        file.write_bytes(data)
    reader, storage = distant(url, cache_dir=folder)
    assert reader.vectors.tobytes() == rows(0, 37).tobytes()
    assert fetched(storage) == 10
    files = files_of(folder)
    bodies = [file.read_bytes() for file in files]
    for file, body in zip(files, bodies[1:] + bodies[:1], strict=True):
        file.write_bytes(body)
    assert distant(url, cache_dir=folder)[0].vectors.tobytes() == rows(0, 37).tobytes()
    assert distant(url, cache_dir=folder)[0].get([5, 20]).tobytes() == rows(0, 37)[[5, 20]].tobytes()


def test_a_damaged_answer_is_not_kept(url: str, folder: Path, distant: Any) -> None:
    make(url, 32)
    reader, storage = distant(url, cache_dir=folder)
    bad = iter([True])
    storage.answer = lambda request, data: data[:9] + b"!!" + data[11:] if next(bad, False) else data
    assert reader[[0, 20]].tobytes() == rows(0, 32)[[0, 20]].tobytes()
    assert next(bad, None) is None
    for count in (1, 0):
        again, storage = distant(url, cache_dir=folder)
        assert again[[0, 20]].tobytes() == rows(0, 32)[[0, 20]].tobytes()
        assert fetched(storage) == count


def test_a_cache_that_lies_with_good_checksums_is_found_out(url: str, folder: Path, distant: Any,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """Even bytes that the folder vouches for must pass the checks of the store."""
    make(url, 32, "raw")
    reader, storage = distant(url, cache_dir=folder)
    monkeypatch.setattr(ChunkCache, "get", lambda self, key, length=None: None if length is None else bytes(length))
    assert reader.vectors.tobytes() == rows(0, 32).tobytes()
    assert fetched(storage) == 8


@pytest.mark.parametrize("codec", ["raw", "lossless"])
@pytest.mark.parametrize("same_url", [True, False])
def test_twins_share_one_folder(tmp_path: Path, folder: Path, distant: Any, codec: str, same_url: bool) -> None:
    """``cp -r``, and both go on, from one tail: under one URL (the copy took the place of the store) or two."""
    one, two = tmp_path / "one.zarr", tmp_path / "two.zarr"
    make(one, 22, codec)
    shutil.copytree(one, two)
    make(one, 26, first=22, seed=1)
    make(two, 26, first=22, seed=2)
    at = {one: "s3://b/run.zarr", two: "s3://b/run.zarr" if same_url else "s3://b/copy.zarr"}
    counted = []
    for _ in range(2):
        for url, seed in ((one, 1), (two, 2)):
            reader, storage = distant(url, at=at[url], cache_dir=folder)
            expected = np.concatenate([rows(0, 22), rows(22, 26, seed)])
            assert reader.vectors.tobytes() == expected.tobytes()
            assert reader.get(np.arange(48)).tobytes() == expected.tobytes()
            counted.append(fetched(storage))
    # 12 chunks, of which 4 lie in the shard that was full before. What is at another URL may be a stranger's forgery.
    assert counted == [12, 8 if same_url else 12, 0, 0]


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_twins_that_go_on_under_one_session(tmp_path: Path, folder: Path, distant: Any, codec: str) -> None:
    """A member that joins by its token goes on in both copies under the very same session: only the bytes differ."""
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    noise = np.random.default_rng(3).integers(-128, 128, (2, 32, DIM), np.int8)     # it packs to the same length
    for url, values in ((one, noise[0]), (other, noise[1])):
        with zstore.Writer(url, codec=codec, commit_every_s=None, rows_per_shard=SHARD) as writer:
            writer.append(np.arange(32), values)
    shutil.copytree(one, two)
    for shard in range(2):
        mine, theirs = shard_of(one, shard), shard_of(other, shard)
        assert (mine.end.lengths == theirs.end.lengths).all()
        end = replace(theirs.end, store_id=mine.end.store_id, session=mine.end.session)
        Path(two, mine.name).write_bytes(theirs.body() + end.to_bytes())
    for _ in range(2):
        for url, values in ((one, noise[0]), (two, noise[1])):
            reader, _ = distant(url, at="s3://b/run.zarr", cache_dir=folder)
            assert (reader.vectors == values).all()


def schema_of(url: Path) -> Schema:
    return zstore.Reader(url)._now()[0].schema


def shard_of(url: Path, shard: int) -> ShardFile:
    schema = schema_of(url)
    return open_shard(LocalStorage(url), schema, schema.vectors, shard)


def test_the_identity_of_a_chunk_has_every_part_of_it(url: str, tmp_path: Path) -> None:
    for codec in ("raw", "lossless"):
        make(tmp_path / codec, 40, codec)
        file = shard_of(tmp_path / codec, 0)
        place = file.place(1)
        name = file.identity(1, place)
        assert name is not None
        other = "0" * 32
        ends = [replace(file.end, store_id=other), replace(file.end, session=other), replace(file.end, path="v.2"),
                replace(file.end, shard=1)]
        ends += [replace(file.end, chunk_crcs=file.end.chunk_crcs ^ np.uint32(1)) if codec == "raw"
                 else replace(file.end, lengths=file.end.lengths + np.uint64(1))]
        names = [file.identity(1, place._replace(end=end)) for end in ends]
        names += [file.identity(0, place), file.identity(1, place._replace(offset=place.offset + 1)),
                  file.identity(1, place._replace(length=place.length + 1))]
        assert len({name, *names}) == len(names) + 1
        assert None not in names
        tail = shard_of(tmp_path / codec, 2)            # 8 rows: two full chunks
        assert tail.identity(1, tail.place(1)) is not None
        cut = replace(tail.end, rows=7)
        assert tail.identity(1, tail.place(1)._replace(end=cut)) is None
        assert tail.identity(0, tail.place(0)._replace(end=cut)) is not None


def test_a_partial_chunk_is_never_kept(url: str, folder: Path, distant: Any) -> None:
    with zstore.Writer(url, codec="raw", commit_every_s=None, rows_per_shard=SHARD) as writer:
        for count in range(1, 12):
            writer.append([count - 1], rows(count - 1, 1))
            writer.commit()
            reader, _ = distant(url, cache_dir=folder)
            assert reader.vectors.tobytes() == rows(0, count).tobytes()
    assert not [file for file in files_of(folder) if len(file.read_bytes()) % 4096 == 0]
    bodies = [file.read_bytes() for file in files_of(folder)]
    assert sum(rows(0, 4).tobytes() in body for body in bodies) == 1
    assert sum(rows(4, 1).tobytes() in body for body in bodies) == 1       # only in the full chunk of rows 4 to 7


def test_a_folder_that_goes_while_it_is_in_use(url: str, folder: Path, distant: Any) -> None:
    make(url, 64)
    reader, _ = distant(url, cache_dir=folder, cache_bytes=0)
    stop = threading.Event()

    def wreck() -> None:
        while not stop.is_set():
            shutil.rmtree(folder, ignore_errors=True)
    thread = threading.Thread(target=wreck)
    thread.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for seed in range(30):
                order = np.random.default_rng(seed).integers(0, 64, 20)
                assert reader[order].tobytes() == rows(0, 64)[order].tobytes()
    finally:
        stop.set()
        thread.join()


def child_reads(reader: zstore.Reader, pipe: Any) -> None:
    pipe.send(reader.vectors.tobytes())


def test_forked_children_share_it(url: str, folder: Path, distant: Any) -> None:
    make(url, 37)
    reader, _ = distant(url, cache_dir=folder)
    reader[0]
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    children = [context.Process(target=child_reads, args=(reader, theirs)) for _, theirs in pipes]
    for child in children:
        child.start()
    try:
        for ours, _ in pipes:
            assert ours.poll(30)
            assert ours.recv() == rows(0, 37).tobytes()
    finally:
        for child in children:
            child.join(30)
            child.kill()
    again, storage = distant(url, cache_dir=folder)
    assert again.vectors.tobytes() == rows(0, 37).tobytes()
    assert fetched(storage) == 1


def test_the_bound_holds_for_a_reader(tmp_path: Path, folder: Path, distant: Any, bounded: Callable[[int], None]) -> None:
    bounded(BINS * 160 << 10)
    for name in "abc":
        make(tmp_path / name, 112, "raw", seed=ord(name))
    for _ in range(2):
        for name in "abc":
            reader, _ = distant(tmp_path / name, cache_dir=folder)
            assert reader.vectors.tobytes() == rows(0, 112, ord(name)).tobytes()
            assert taken(folder) <= BINS * (160 << 10) + BINS * 20
    assert taken(folder) > BINS * 40 << 10
