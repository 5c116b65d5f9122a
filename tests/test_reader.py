"""Reader: one version of a store, through refreshes, forks, pickles and closing."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.errors import Conflict, NotFound, StoreNotFound

DIM = 1024          # a row of 4 KiB: shards of four rows can be mapped
SHARD = 4
pytestmark = pytest.mark.filterwarnings("ignore:.*rolled back.*:UserWarning", "ignore:.*superseded.*:UserWarning")


def rows(first: int, count: int) -> np.ndarray[Any, Any]:
    return np.repeat(np.arange(first, first + count, dtype=np.float32)[:, None], DIM, axis=1)


def writer_of(url: Any, codec: str = "raw", **more: Any) -> zstore.Writer:
    return zstore.Writer(url, codec=codec, commit_every_s=None, rows_per_shard=SHARD, **more)


def append(writer: zstore.Writer, first: int, count: int, **more: Any) -> None:
    writer.append([f"k{i}" for i in range(first, first + count)], rows(first, count), **more)


@pytest.fixture(params=["raw", "lossless"])
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def firsts(view: zstore.View) -> list[int]:
    return view.vectors[:, 0].astype(int).tolist()


def test_refresh_moves_to_head_and_what_was_given_stays(url: str, codec: str) -> None:
    with writer_of(url, codec) as writer:
        append(writer, 0, 3)
        writer.commit()
        with zstore.Reader(url) as reader:
            assert reader.refresh() is False
            old, view, got = reader.vectors, reader.select(slice(0, 3)), reader.get("k1")
            before = [old.tolist(), view.ids.tolist(), got.tolist()]
            for step in range(3, 20):               # the tail grows, fills, and new shards come
                append(writer, step, 1)
                writer.commit()
                assert len(reader) == step
                assert reader.refresh() is True
                assert firsts(reader) == list(range(step + 1))
                assert reader.get(f"k{step}")[0] == step
                assert reader.find([f"k{step}", "k0"]).tolist() == [step, 0]
                assert reader[step][0] == step
            assert [old.tolist(), view.ids.tolist(), got.tolist()] == before
            assert len(view) == 3
            assert firsts(view) == [0, 1, 2]


def test_views_are_pinned_while_the_reader_moves_and_rolls_back(url: str, codec: str) -> None:
    with writer_of(url, codec) as writer:
        append(writer, 0, 6)
        mark = writer.commit()
        append(writer, 6, 5)
    with zstore.Reader(url) as reader:
        everything, latest = reader.select(slice(None)), reader.latest()
        zstore.rollback(url, mark)
        assert reader.refresh()
        assert firsts(reader) == list(range(6))
        with pytest.raises(NotFound):
            reader.get("k8")
        with writer_of(url, codec) as writer:
            append(writer, 8, 2)
        assert reader.refresh()
        assert firsts(reader) == [*range(6), 8, 9]
        assert reader.get("k8")[0] == 8
        assert firsts(everything) == list(range(11))
        assert everything.get("k10")[0] == 10
        assert latest.ids.tolist() == [f"k{i}" for i in range(11)]


def test_versions_and_tags(url: str, codec: str) -> None:
    with writer_of(url, codec, attrs={"model": "m"}) as writer:
        append(writer, 0, 2)
        first = writer.commit(tag="first", meta={"loss": 1})
        append(writer, 2, 4)
        second = writer.commit()
    assert zstore.Reader(url, version=0).version == 0
    assert firsts(zstore.Reader(url, version=first.version)) == [0, 1]
    by_tag = zstore.Reader(url, tag="first")
    assert (by_tag.version, len(by_tag)) == (first.version, 2)
    assert by_tag.history[-1].commit_id == first.commit_id
    assert by_tag.history[-1].meta == {"loss": 1}
    assert [commit.version for commit in by_tag.history] == [0, 1]
    assert firsts(zstore.Reader(url, version=second.version)) == list(range(6))
    reader = zstore.Reader(url)
    assert reader.attrs == {"model": "m"}
    reader.attrs["model"] = "x"
    assert reader.attrs == {"model": "m"}
    with pytest.raises(NotFound, match="no version 99; head is"):
        zstore.Reader(url, version=99)
    with pytest.raises(NotFound, match="no tag 'frist'; there is 'first'"):
        zstore.Reader(url, tag="frist")
    with pytest.raises(ValueError, match="not both"):
        zstore.Reader(url, version=1, tag="first")
    for wrong in (-1, "1", 1.5, True):
        with pytest.raises((ValueError, TypeError)):
            zstore.Reader(url, version=wrong)       # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0 or more"):
        zstore.Reader(url, cache_bytes=-1)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x"),
                                  lambda p: (p / "_zstore").mkdir(parents=True)])
def test_no_store_is_said_so(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "x")
    with pytest.raises(StoreNotFound) as caught:
        zstore.Reader(tmp_path / "x")
    assert isinstance(caught.value, FileNotFoundError)
    assert str(tmp_path / "x") in str(caught.value)


def test_a_closed_reader_says_what_to_do(url: str) -> None:
    with writer_of(url) as writer:
        append(writer, 0, 5)
    reader = zstore.Reader(url)
    reader.close()
    reader.close()
    for use in (lambda: len(reader), lambda: reader.vectors, lambda: reader.get("k1"), lambda: reader.refresh(),
                lambda: reader.version, lambda: reader[0], lambda: pickle.dumps(reader)):
        with pytest.raises(ValueError, match=r"closed; open the store again with zstore\.Reader"):
            use()
    assert repr(reader) == "<zstore.Reader closed>"


def test_arrays_outlive_the_reader_the_view_and_the_folder(tmp_path: Path, codec: str) -> None:
    url = tmp_path / "a.zarr"
    with writer_of(url, codec) as writer:
        append(writer, 0, 10)
    reader = zstore.Reader(url)
    view = reader.latest()
    arrays = [reader.vectors, reader.ids, view.vectors, reader[2:7], reader.select([5, 1]).vectors]
    wanted = [array.tolist() for array in arrays]
    gone = weakref.ref(reader)
    reader.close()
    url.rename(tmp_path / "b.zarr")
    del reader, view
    gc.collect()
    assert gone() is None
    assert [array.tolist() for array in arrays] == wanted
    for path in (tmp_path / "b.zarr" / "vectors").iterdir():
        path.unlink()
    assert [array.tolist() for array in arrays] == wanted


def test_a_replaced_store_is_found_out(tmp_path: Path) -> None:
    url = tmp_path / "a.zarr"
    with writer_of(url) as writer:
        append(writer, 0, 2)
    reader = zstore.Reader(url)
    packed = pickle.dumps(reader)
    url.rename(tmp_path / "old.zarr")
    with writer_of(url) as writer:
        append(writer, 5, 2)
    with pytest.raises(Conflict, match="was replaced"):
        reader.refresh()
    with pytest.raises(Conflict, match="was replaced"):
        pickle.loads(packed)


def test_a_reader_pickles_small_and_stays_at_its_version(url: str, codec: str) -> None:
    with writer_of(url, codec) as writer:
        append(writer, 0, 300)
        writer.commit()
        reader = zstore.Reader(url, cache_bytes=2**20)
        reader.vectors, reader.ids  # noqa: B018
        data = pickle.dumps(reader)
        assert len(data) < 2048
        append(writer, 300, 4)
        writer.commit()
    again = pickle.loads(data)
    assert type(again) is zstore.Reader
    assert (again.version, len(again)) == (reader.version, 300)
    assert again.get("k299")[0] == 299
    assert again.refresh()
    assert len(again) == 304


def work(reader: zstore.View, queue: Any) -> None:
    """In a child: every way to read, and one view back."""
    try:
        queue.put((firsts(reader), reader.get("k7")[0].item(), reader.find(["k3", "x"]).tolist(), reader.ids.tolist()[:2],
                   [len(part) for part in reader.batches(6)], reader.latest().vectors.sum().item()))
    except BaseException as error:
        queue.put(repr(error))
        raise


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_children_read_what_the_parent_reads(url: str, codec: str, method: str) -> None:
    with writer_of(url, codec) as writer:
        append(writer, 0, 10)
        writer.commit()
        reader = zstore.Reader(url)
        if method == "fork":
            reader.get("k1"), reader.vectors
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        views = [reader, reader.select(slice(0, 9))] if method == "fork" else [reader]
        for view in views:
            child = context.Process(target=work, args=(view, queue))
            child.start()
            try:
                found = queue.get(timeout=60)
            finally:
                child.join(60)
            count = len(view)
            assert found == (list(range(count)), 7.0, [3, -1], ["k0", "k1"], [6, count - 6], DIM * sum(range(count)))
            assert child.exitcode == 0
        queue.close()
        assert firsts(reader) == list(range(10))        # the parent's reader is as it was
        append(writer, 10, 1)
        writer.commit()
    assert zstore.Reader(url).ids.tolist()[-1] == "k10"


def test_memory_urls_are_readers_too() -> None:
    url = "memory://test-reader-memory"
    with writer_of(url, "lossless") as writer:
        append(writer, 0, 9, epoch=3)
        writer.commit()
        with zstore.Reader(url) as reader:
            assert firsts(reader) == list(range(9))
            append(writer, 9, 1, epoch=4)
            writer.commit()
            assert reader.refresh()
            assert reader.epochs.tolist() == [3, 4]
    import fsspec

    fsspec.filesystem("memory").rm("/test-reader-memory", recursive=True)


def test_verify_reads_the_checksums_of_raw_shards(tmp_path: Path) -> None:
    url = tmp_path / "a.zarr"
    with writer_of(url) as writer:
        append(writer, 0, 8)
    shard = url / "vectors" / "c.1.0"
    data = bytearray(shard.read_bytes())
    data[DIM * 4 + 5] ^= 1
    shard.write_bytes(data)
    with pytest.raises(zstore.ZStoreError, match=r"vectors/c\.1\.0.*CRC32C"):
        zstore.Reader(url, verify=True)


@pytest.mark.parametrize("damage", ["missing", "cut", "swapped", "older"])
def test_a_damaged_shard_is_an_error_and_never_a_fill(tmp_path: Path, codec: str, damage: str) -> None:
    url = tmp_path / "a.zarr"
    with writer_of(url, codec) as writer:
        append(writer, 0, 5)
        writer.commit()
        older = (url / "vectors" / "c.1.0").read_bytes()
        append(writer, 5, 2)
    shard = url / "vectors" / "c.1.0"
    if damage == "missing":
        shard.unlink()
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-40])
    elif damage == "swapped":
        shard.write_bytes((url / "vectors" / "c.0.0").read_bytes())
    else:
        shard.write_bytes(older)
    reader = zstore.Reader(url)
    assert reader[:4].sum() == DIM * 6                  # the other shard is not hurt
    for ask in (lambda: reader.vectors, lambda: reader.get("k6"), lambda: reader[5], lambda: reader[[6, 0]],
                lambda: [part.vectors for part in reader.batches(2)]):
        with pytest.raises(zstore.ZStoreError, match=r"vectors/c\.1\.0"):
            ask()
