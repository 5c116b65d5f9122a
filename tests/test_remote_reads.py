"""Distant stores: only the chunks that are asked for, many at once, and the right rows whatever changes meanwhile."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.errors import Corrupt
from zstore.format.schema import Schema
from zstore.shards.read import open_shard
from zstore.storage.local import LocalStorage
from zstore.testing.distant import DistantStorage, Request

DIM = 2048              # a row of 8 KiB of float32: a chunk has 4 rows
SHARD = 16
COUNT = 58              # the last shard is a tail, and so is its last chunk
pytestmark = pytest.mark.filterwarnings("ignore:.*superseded.*:UserWarning")


def rows(first: int, count: int, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    noise = np.random.default_rng(7).integers(0, 100, (200, DIM))[first:first + count]
    return noise.astype(dtype)


def fill(writer: zstore.Writer, first: int, count: int, dtype: Any = np.float32) -> None:
    at = np.arange(first, first + count)
    writer.append([f"id-{i % 40}" for i in at], rows(first, count, dtype), epoch=at // 40, label=at * 3,
                  note=[f"note {i}" * (i % 5) for i in at])


def make(url: Any, codec: str = "lossless", count: int = COUNT, dtype: Any = np.float32, commits: int = 1) -> None:
    with zstore.Writer(url, codec=codec, commit_every_s=None, rows_per_shard=SHARD) as writer:
        for part in np.array_split(np.arange(count), commits):
            fill(writer, int(part[0]), len(part), dtype)
            writer.commit()


@pytest.fixture
def distant(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[zstore.Reader, DistantStorage]]:
    """Open a local store as a distant one, with an empty memory cache: the reader, and the storage with its log."""
    def opened(url: Any, *, tells: bool = True, **options: Any) -> tuple[zstore.Reader, DistantStorage]:
        storage = DistantStorage(url, tells=tells)
        monkeypatch.setattr("zstore.reader.open_storage", lambda *_: storage)
        reader = zstore.Reader(url, **{"cache_bytes": 1 << 26, **options})
        storage.take_log()
        return reader, storage
    return opened


def schema_of(reader: zstore.Reader) -> Schema:
    return reader._now()[0].schema


def ranges_of(reader: zstore.Reader, field: str, addresses: list[int]) -> set[tuple[str, int, int]]:
    """Where the chunks of these rows lie: (object, first byte, last byte + 1)."""
    schema = schema_of(reader)
    f, found = schema.fields[field], set()
    for address in addresses:
        file = open_shard(LocalStorage(reader._storage.url), schema, f, address // SHARD)
        place = file.place(address % SHARD // f.chunk_rows)
        found.add((file.name, place.offset, place.offset + place.length))
    return found


def asked(log: list[Request]) -> list[tuple[str, int, int]]:
    return [(request.name, request.start, request.stop) for request in log if request.kind == "range"]


def one_batch(log: list[Request]) -> bool:
    """All ranges were asked for with one ``read_ranges``."""
    batches = {request.batch for request in log if request.kind == "range"}
    return len(batches) == 1 and 0 not in batches


@pytest.mark.parametrize("codec", ["raw", "lossless", "small"])
def test_a_gather_brings_its_chunks_and_no_others_at_once(url: str, distant: Any, codec: str) -> None:
    make(url, codec)
    reader, storage = distant(url)
    wanted = [1, 2, 9, 33, 45, 2, 57]
    assert reader[wanted].tobytes() == rows(0, COUNT)[wanted].tobytes()
    log = storage.take_log(name="vectors")
    ends = [request.name for request in log if request.kind == "end"]
    assert sorted(ends) == sorted({f"vectors/c.{row // SHARD}.0" for row in wanted})       # each end once
    assert sorted(asked(log)) == sorted(ranges_of(reader, "vectors", wanted))               # each chunk once
    assert one_batch(log)
    assert reader[wanted[::-1]].tobytes() == rows(0, COUNT)[wanted[::-1]].tobytes()
    assert storage.take_log(name="vectors") == []
    assert reader[[1, 14]].tobytes() == rows(0, COUNT)[[1, 14]].tobytes()
    assert asked(storage.take_log()) == list(ranges_of(reader, "vectors", [14]))            # one more, of an open shard


def test_strings_and_one_row(url: str, distant: Any) -> None:
    make(url)
    reader, storage = distant(url)
    assert reader.select([3, 20, 57]).field("note").tolist() == [f"note {i}" * (i % 5) for i in (3, 20, 57)]
    log = storage.take_log()
    assert sorted(asked(log)) == sorted(ranges_of(reader, "note", [3, 20, 57]))
    assert one_batch(log)
    reader.field("note")
    assert sorted(asked(storage.take_log())) == sorted(ranges_of(reader, "note", [40]))      # the only one that was lacking
    assert reader[21].tobytes() == rows(0, COUNT)[21].tobytes()
    assert len(storage.take_log(name="vectors")) == 2                       # an end, a chunk
    assert reader[22].tobytes() == rows(0, COUNT)[22].tobytes()
    assert storage.take_log() == []


def together(storage: DistantStorage, matching: Callable[[Request], bool], count: int) -> None:
    """Answer such requests only when so many of them wait at the same time."""
    barrier = threading.Barrier(count)

    def wait(request: Request) -> None:
        if matching(request):
            barrier.wait(timeout=20)
    storage.before = wait


def test_shards_are_opened_at_once(url: str, distant: Any) -> None:
    make(url)
    reader, storage = distant(url)
    together(storage, lambda request: request.kind == "end" and "vectors" in request.name, 4)
    assert reader[[1, 17, 33, 49]].tobytes() == rows(0, COUNT)[[1, 17, 33, 49]].tobytes()


def test_runs_of_the_index_are_read_at_once(url: str, distant: Any) -> None:
    make(url, commits=3)
    reader, storage = distant(url)
    runs = reader._now()[0].record.index
    assert len(runs) > 1
    together(storage, lambda request: "index" in request.name, len(runs))
    assert reader.get("id-30", epoch=0).tobytes() == rows(30, 1).tobytes()
    assert len(storage.take_log(name="index")) == len(runs)                 # one request for each
    storage.before = lambda request: None
    assert reader.find(["id-1", "none"]).tolist() == [41, -1]
    assert storage.take_log(name="index") == []


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int8", "uint8", "bfloat16"])
@pytest.mark.parametrize("codec", ["raw", "lossless", "small"])
def test_every_way_gives_the_rows_of_the_local_store(url: str, distant: Any, codec: str, dtype: str) -> None:
    kind = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    make(url, codec, dtype=kind)
    near, (far, _) = zstore.Reader(url), distant(url)
    assert far.vectors.tobytes() == near.vectors.tobytes() == rows(0, COUNT, kind).tobytes()
    order = np.random.default_rng(1).integers(0, COUNT, 50)
    for view in (lambda r: r, lambda r: r.select(order), lambda r: r.epoch(0), lambda r: r.epoch(1), lambda r: r.latest(),
                 lambda r: r.select(slice(5, 50, 3)), lambda r: r.select([COUNT - 1])):
        for name in ("vectors", "ids", "epoch", "label", "note"):
            a, b = view(far).field(name), view(near).field(name)
            assert a.dtype == b.dtype
            assert (a.view(np.uint8) if name == "vectors" else a).tolist() == (
                b.view(np.uint8) if name == "vectors" else b).tolist()
    assert far.get(["id-5", "id-39"], epoch=0).tobytes() == near.get(["id-5", "id-39"], epoch=0).tobytes()
    assert far.get("id-17").tobytes() == near.get("id-17").tobytes()
    assert b"".join(part.vectors.tobytes() for part in far.batches(7)) == near.vectors.tobytes()
    assert far[::-3].tobytes() == near[::-3].tobytes()
    far.close()


def test_a_long_span_goes_in_slabs_past_the_cache(url: str, distant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zstore.mapping.STRAIGHT_BYTES", 1 << 14)
    monkeypatch.setattr("zstore.chunks.SLAB_BYTES", 3 << 15)
    make(url, "raw")
    reader, storage = distant(url)
    assert reader.vectors.tobytes() == rows(0, COUNT).tobytes()
    log = [request for request in storage.take_log(name="vectors") if request.kind == "range"]
    batches: dict[int, int] = {}
    for request in log:
        batches[request.batch] = batches.get(request.batch, 0) + request.stop - request.start
    assert max(batches.values()) <= 3 << 15
    assert len(batches) >= 5
    assert len(set(asked(log))) == len(asked(log)) == -(-COUNT // 4)


def test_many_short_runs_of_rows_are_one_batch(url: str, distant: Any) -> None:
    make(url)
    reader, storage = distant(url)
    some = reader.select(np.arange(COUNT) % 5 < 2)
    assert len(some._now()[1].extents.starts) == 12
    assert some.vectors.tobytes() == rows(0, COUNT)[np.arange(COUNT) % 5 < 2].tobytes()
    assert one_batch(storage.take_log())


def test_rows_without_a_run_are_scanned_at_once(url: str, distant: Any, caplog: pytest.LogCaptureFixture) -> None:
    make(url)
    for run in Path(url, "_zstore", "index").iterdir():
        run.unlink()
    reader, storage = distant(url)
    assert reader.find(["id-39", "id-3"], epoch=0).tolist() == [39, 3]
    log = storage.take_log(name="ids/c")
    assert one_batch(log)
    assert "key index can't be read" in caplog.text


# The store changes while it is read.

def once(storage: DistantStorage, matching: Callable[[Request], bool], act: Callable[[], None]) -> list[Request]:
    """Do it right before the first such request is answered. The requests it was done for."""
    done: list[Request] = []

    def before(request: Request) -> None:
        if not done and matching(request):
            done.append(request)
            act()
    storage.before = before
    return done


READS: dict[str, Callable[[zstore.Reader], bytes]] = {
    "gather": lambda reader: reader[[1, 50, 57, 55]].tobytes(),
    "one": lambda reader: reader[57].tobytes(),
    "all": lambda reader: reader.vectors.tobytes(),
    "texts": lambda reader: "|".join(reader.select([2, 50, 57]).field("note").tolist()).encode(),
    "ids": lambda reader: "|".join(reader.ids.tolist()).encode(),
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("more", [1, 30])           # the tail grows; it fills, and there are new shards
@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_a_tail_that_is_rewritten_between_its_end_and_a_chunk(url: str, distant: Any, monkeypatch: pytest.MonkeyPatch,
                                                              codec: str, tells: bool, more: int, read: str) -> None:
    if read == "all":
        monkeypatch.setattr("zstore.mapping.STRAIGHT_BYTES", 0)
    with zstore.Writer(url, codec=codec, commit_every_s=None, rows_per_shard=SHARD) as writer:
        fill(writer, 0, COUNT)
        writer.commit()
        expected = READS[read](zstore.Reader(url))
        reader, storage = distant(url, tells=tells)

        def grow() -> None:
            fill(writer, COUNT, more)
            writer.commit()
        done = once(storage, lambda request: request.kind == "range" and "c.3" in request.name, grow)
        assert READS[read](reader) == expected
        assert len(done) == 1
        storage.before = lambda request: None
        assert reader.refresh()
        assert reader.vectors.tobytes() == rows(0, COUNT + more).tobytes()
        assert reader.field("note").tolist() == [f"note {i}" * (i % 5) for i in range(COUNT + more)]


def test_a_tail_that_never_stands_still_ends_in_an_error(url: str, distant: Any) -> None:
    with zstore.Writer(url, commit_every_s=None, rows_per_shard=SHARD) as writer:
        fill(writer, 0, 50)
        writer.commit()
        reader, storage = distant(url)
        at = iter(range(50, 64))

        def grow(request: Request) -> None:
            if request.kind == "range":
                fill(writer, next(at), 1)
                writer.commit()
        storage.before = grow
        with pytest.raises(OSError, match="changed while it was read"):
            reader[49]
        assert len(storage.take_log("end", name="vectors")) == 2         # it began again once
        storage.before = lambda request: None
        assert reader[49].tobytes() == rows(49, 1).tobytes()


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_a_damaged_answer_is_asked_for_again(url: str, distant: Any, codec: str) -> None:
    make(url, codec)
    for row in (2, 57):                 # of a full shard, of the tail
        reader, storage = distant(url)
        bad = iter([True])

        def damage(request: Request, data: bytes, bad: Iterator[bool] = bad) -> bytes:
            return data[:7] + bytes([data[7] ^ 4]) + data[8:] if next(bad, False) else data
        storage.answer = damage
        assert reader[[row]].tobytes() == rows(row, 1).tobytes()
        assert next(bad, None) is None
        storage.answer = lambda request, data: data[:-1] + bytes([data[-1] ^ 4])
        with pytest.raises(Corrupt, match=r"CRC32C"):
            reader[[row - 1 if row == 57 else 5, 20]]


def test_a_server_that_is_not_there_is_asked_once(url: str, distant: Any) -> None:
    make(url)
    reader, storage = distant(url)

    def fail(request: Request) -> None:
        if request.kind == "range":
            raise TimeoutError(f"no answer about {request.name}")
    storage.before = fail
    with pytest.raises(TimeoutError, match="no answer about vectors"):
        reader[[1, 57]]
    assert len(storage.take_log("range", name="vectors")) == 1


def test_an_older_shard_that_was_put_back_is_no_shorter_row(url: str, distant: Any) -> None:
    """A handle that can't pin reads the shard again from its end, and finds fewer rows there than it had."""
    make(url, count=50)
    tail = Path(url, "vectors", "c.3.0")
    old = tail.read_bytes()
    with zstore.Writer(url, commit_every_s=None) as writer:
        fill(writer, 50, 4)
    reader, storage = distant(url)
    assert reader[48].tobytes() == rows(48, 1).tobytes()

    def put_back() -> None:
        tail.unlink()
        tail.write_bytes(old)
    done = once(storage, lambda request: request.kind == "range", put_back)
    with pytest.raises(Corrupt, match="fewer rows than"):
        reader[53]
    assert done


def test_a_chunk_that_claims_too_much_is_not_fetched(url: str, distant: Any) -> None:
    make(url, count=16)
    reader, storage = distant(url)
    file = open_shard(LocalStorage(url), schema_of(reader), schema_of(reader).fields["vectors"], 0)
    lengths = file.end.lengths.copy()
    lengths[0] = file.end.body_bytes            # inside of the body, and more than four rows can take
    shard = Path(url, "vectors", "c.0.0")
    shard.write_bytes(shard.read_bytes()[:file.end.body_bytes] + replace(file.end, lengths=lengths).to_bytes())
    with pytest.raises(Corrupt, match="claims more bytes"):
        reader[[0, 8]]
    assert all(stop - start <= 4 * DIM * 4 + 64 for _, start, stop in asked(storage.take_log()))


def test_verify_at_open_reads_every_chunk_of_a_raw_store(url: str, distant: Any, tmp_path: Path) -> None:
    make(url, "raw")
    assert len(distant(url, verify=True, cache_dir=tmp_path / "kept")[0].vectors) == COUNT
    shard = Path(url, "vectors", "c.1.0")
    data = bytearray(shard.read_bytes())
    data[20000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(Corrupt, match=r"vectors/c\.1\.0"):      # what is kept nearer is not what was asked about
        distant(url, verify=True, cache_dir=tmp_path / "kept")


def test_threads_and_a_forked_child(url: str, distant: Any) -> None:
    make(url)
    reader, _ = distant(url)
    wrong: list[int] = []

    def gather(seed: int) -> None:
        order = np.random.default_rng(seed).integers(0, COUNT, 40)
        if reader[order].tobytes() != rows(0, COUNT)[order].tobytes():
            wrong.append(seed)
    threads = [threading.Thread(target=gather, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    fresh, _ = distant(url)

    def work(pipe: Any) -> None:
        pipe.send(fresh[[3, 57, 20]].tobytes())
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    child = multiprocessing.get_context("fork").Process(target=work, args=(theirs,))
    child.start()
    try:
        assert ours.poll(30)
        assert ours.recv() == rows(0, COUNT)[[3, 57, 20]].tobytes()
    finally:
        child.join(30)
        child.kill()


# A real client and a real protocol.

@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    for package in ("s3fs", "moto", "werkzeug"):
        pytest.importorskip(package)
    from zstore.testing.s3 import Server
    with Server() as running:
        yield running


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_on_s3(server: Any, codec: str, tmp_path: Path) -> None:
    where, options = server.url(), {"storage_options": server.options}
    with zstore.Writer(where, codec=codec, commit_every_s=None, rows_per_shard=SHARD, **options) as writer:
        fill(writer, 0, COUNT)
    reader = zstore.Reader(where, cache_dir=tmp_path / "kept", cache_bytes=1 << 26, **options)
    server.requests()
    wanted = [1, 17, 33, 49, 50]
    assert reader[wanted].tobytes() == rows(0, COUNT)[wanted].tobytes()
    log = server.requests()
    assert all(line.startswith("GET ") for line in log)
    assert len(log) <= 8                # four ends, and four chunks that lie in four objects
    assert reader[wanted].tobytes() == rows(0, COUNT)[wanted].tobytes()
    assert server.requests() == []
    assert reader.vectors.tobytes() == rows(0, COUNT).tobytes()
    assert reader.field("note").tolist() == [f"note {i}" * (i % 5) for i in range(COUNT)]
    server.requests()
    again = pickle.loads(pickle.dumps(reader))
    assert again.vectors.tobytes() == rows(0, COUNT).tobytes()
    assert len([line for line in server.requests() if "/vectors/" in line]) <= 5     # the ends, and the partial chunk


def test_a_tail_that_grows_on_s3(server: Any) -> None:
    where, options = server.url(), {"storage_options": server.options}
    with zstore.Writer(where, commit_every_s=None, rows_per_shard=SHARD, **options) as writer:
        fill(writer, 0, 20)
        writer.commit()
        reader = zstore.Reader(where, cache_bytes=1 << 26, **options)
        assert reader[17].tobytes() == rows(17, 1).tobytes()
        fill(writer, 20, 6)
        writer.commit()
        # The reader's end of the shard is of a generation that is gone.
        assert reader[[0, 18, 19]].tobytes() == rows(0, 20)[[0, 18, 19]].tobytes()
        assert reader.refresh()
        assert reader.vectors.tobytes() == rows(0, 26).tobytes()
