"""Merging runs of the key index: how many are left, that nothing is lost, and what may be replaced."""

from __future__ import annotations

import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.commits.publish import Delta
from zstore.errors import Corrupt
from zstore.format.layout import run_name
from zstore.format.run import Entries, parse_run
from zstore.storage import open_storage
from zstore.writing import merging
from zstore.writing.streaming import Source, Stopped, cut, write_merged


def runs_of(url: Path) -> tuple[str, ...]:
    return zstore.Reader(url)._now()[0].record.index


def ids_of(first: int, count: int) -> np.ndarray[Any, Any]:
    with np.errstate(over="ignore"):
        return (np.arange(first, first + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).view(np.int64)


def settled(writer: zstore.Writer) -> None:
    """Wait until no merge is under way."""
    core: Any = writer._core
    deadline = time.monotonic() + 20
    while core._merger._job is not None and not core._merger._job.done and time.monotonic() < deadline:
        time.sleep(0.001)


@pytest.mark.parametrize("strings", [False, True])
def test_runs_of_any_size_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strings: bool) -> None:
    """Larger than what is merged in memory: streamed, and of n commits about log n runs are left."""
    monkeypatch.setattr(merging, "MAX_ROWS", 100)
    monkeypatch.setattr("zstore.writing.streaming.STEP", 16)
    url, rows = tmp_path / "s.zarr", 40
    with zstore.Writer(url, commit_every_s=None) as writer:
        for number in range(70):
            ids = [f"doc-{n}" for n in range(rows)] if strings else ids_of(number * rows, rows)
            writer.append(ids, np.full((rows, 4), number, np.float32), epoch=number if strings else 0)
            writer.commit()
            settled(writer)
    assert len(runs_of(url)) < 16
    assert max(int(parse_run(path.read_bytes(), path.name)[0].rows) for path in (url / "_zstore/index").iterdir()) > 1000
    assert zstore.verify(url) == []
    with zstore.Reader(url) as reader:
        if strings:
            assert reader.get("doc-7", epoch=33)[0] == 33 and reader.get("doc-7")[0] == 69
            assert len(reader.latest()) == rows and reader.epochs.tolist() == list(range(70))
        else:
            assert reader.find(ids_of(0, 70 * rows)).tolist() == list(range(70 * rows))


@pytest.fixture
def slow_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = merging.merge_entries

    def slow(parts: list[Entries]) -> Entries:
        time.sleep(0.1)
        return plain(parts)

    monkeypatch.setattr(merging, "merge_entries", slow)


@pytest.mark.usefixtures("slow_merges")
def test_a_session_of_one_commit_merges_too(tmp_path: Path) -> None:
    """Short sessions, as a job that appends once a day, must not leave a run each."""
    url = tmp_path / "s.zarr"
    for number in range(40):
        with zstore.Writer(url, commit_every_s=None) as writer:
            writer.append(ids_of(number * 8, 8), np.ones((8, 4), np.float32))
    assert len(runs_of(url)) < 16


@pytest.mark.usefixtures("slow_merges")
def test_a_writer_that_is_gone_after_one_commit_merged_too(tmp_path: Path) -> None:
    url, mark = tmp_path / "s.zarr", None
    for number in range(40):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            writer = zstore.Writer(url, commit_every_s=None, at=mark)
        writer.append(ids_of(number * 8, 8), np.ones((8, 4), np.float32))
        commit = writer.commit()
        assert commit is not None
        mark = commit.mark
        writer._let_go()
    assert len(runs_of(url)) < 16


def test_what_is_written_ahead_of_a_commit_is_merged_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zstore.writing.entries.SPILL_ROWS", 256)
    url = tmp_path / "s.zarr"
    with zstore.Writer(url, commit_every_s=None, rows_per_shard=256) as writer:
        for number in range(64):
            writer.append(ids_of(number * 256, 256), np.ones((256, 4), np.float32))
        merger: Any = writer._core and writer._core._merger
        deadline = time.monotonic() + 10
        while merger._now == merger._given and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(merger._now) < len(merger._given)
    assert len(runs_of(url)) < 32 and zstore.verify(url) == []
    assert (zstore.Reader(url).find(ids_of(0, 64 * 256)) == np.arange(64 * 256)).all()


def test_a_merge_is_named_only_where_all_that_it_replaces_is() -> None:
    """A peer of the session may have merged the same runs: then head names them no more."""
    delta = Delta("c" * 32, runs=("new", "ahead"), merged=(("a", "b", "ahead"), ("m",)))

    class Head:
        index = ("a", "b", "x")

    assert delta._index(Head) == ("x", "m", "new")     # type: ignore[arg-type]
    Head.index = ("a", "x")                            # type: ignore[assignment]
    assert delta._index(Head) == ("a", "x", "new", "ahead")     # type: ignore[arg-type]


def three_runs(tmp_path: Path) -> tuple[Any, list[str], list[Entries]]:
    url = tmp_path / "s.zarr"
    with zstore.Writer(url, commit_every_s=None) as writer:
        for number in range(3):
            writer.append([*range(number * 100, number * 100 + 100), 5], np.ones((101, 2), np.float32), epoch=number)
            writer.commit()
    names = list(runs_of(url))
    storage = open_storage(url)
    return storage, names, [parse_run(storage.read(run_name(name)), name)[1] for name in names]


def test_pieces_are_small_and_part_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs whose keys follow each other, as those of counted ids, are cut as finely as mixed ones."""
    monkeypatch.setattr("zstore.writing.streaming.STEP", 8)
    storage, names, parts = three_runs(tmp_path)
    sources = [Source(storage, name) for name in names]
    cuts = cut(sources)
    pieces = [sum(c[n + 1] - c[n] for c in cuts) for n in range(len(cuts[0]) - 1)]
    assert sum(pieces) == 303 and max(pieces) <= 60
    for number in range(1, len(cuts[0]) - 1):
        below = max(int(p.key[c[number] - 1]) for p, c in zip(parts, cuts, strict=True) if c[number])
        above = min(int(p.key[c[number]]) for p, c in zip(parts, cuts, strict=True) if c[number] < len(p.key))
        assert below < above


def test_a_damaged_run_is_not_merged(tmp_path: Path) -> None:
    storage, names, _ = three_runs(tmp_path)
    path = Path(storage.url) / run_name(names[1])
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    sources = [Source(storage, name) for name in names]
    header = merging.merge_headers([s.header for s in sources], zstore.Reader(storage.url)._now()[0].record.session, 303)
    with pytest.raises(Corrupt):
        write_merged(storage, sources, header, "merged", lambda: None)
    assert storage.list("_zstore/tmp") == [] and "merged" not in storage.list("_zstore/index")


def test_a_merge_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    storage, names, _ = three_runs(tmp_path)
    sources = [Source(storage, name) for name in names]
    header = merging.merge_headers([s.header for s in sources], zstore.Reader(storage.url)._now()[0].record.session, 303)
    calls = 0

    def go_on() -> None:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise Stopped

    with pytest.raises(Stopped):
        write_merged(storage, sources, header, "merged", go_on)
    assert storage.list("_zstore/tmp") == []


def test_no_thread_stays(tmp_path: Path) -> None:
    with zstore.Writer(tmp_path / "s.zarr", commit_every_s=None) as writer:
        for number in range(20):
            writer.append(ids_of(number * 8, 8), np.ones((8, 4), np.float32))
            writer.commit()
        settled(writer)
        time.sleep(0.01)
        assert "zstore-merge" not in [thread.name for thread in threading.enumerate()]
