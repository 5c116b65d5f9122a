"""What must not grow with the length of a log or of an index: how much is read for one answer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.commits.log import Log
from zstore.commits.sessions import Sessions
from zstore.format.checksum import crc32c, open_json, seal_json
from zstore.format.layout import claim_name, run_name
from zstore.format.run import parse_end, parse_run
from zstore.storage import open_storage
from zstore.storage.local import LocalHandle


@contextmanager
def counted_reads() -> Iterator[list[int]]:
    """How many bytes are read from local files, not counting what is mapped."""
    plain, seen = LocalHandle.read, [0]

    def read(self: LocalHandle, offset: int, length: int) -> bytes:
        data = plain(self, offset, length)
        seen[0] += len(data)
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalHandle, "read", read)
        yield seen


def store(url: Path, sessions: int, rows: int = 4) -> zstore.Reader:
    """A store of as many sessions, each of which rolls back to the mark of the one before, with a shard of its own."""
    mark: Any = None
    for number in range(sessions):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            writer = zstore.Writer(url, commit_every_s=None, at=mark, rows_per_shard=64)
        writer.append(np.arange(number * rows, (number + 1) * rows), np.full((rows, 2), number, np.float32), epoch=number)
        commit = writer.commit()
        assert commit is not None
        mark = commit.mark
        writer._let_go()
    return zstore.Reader(url)


def test_the_oldest_shard_of_many_sessions_costs_no_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = store(tmp_path / "s.zarr", 12)
    asked = []
    plain = Log.read
    monkeypatch.setattr(Log, "read", lambda self, version: asked.append(version) or plain(self, version))
    assert reader[0][0] == 0 and reader[-1][0] == 11
    assert len(asked) <= 1          # the schema's


def test_a_claim_speaks_only_for_a_record_of_this_log(tmp_path: Path) -> None:
    """A shard and its claim that both come from a copy which went another way are refused."""
    url = tmp_path / "s.zarr"
    record = store(url, 3)._now()[0].record
    storage = open_storage(url)
    known = Sessions(storage, record)
    assert not known.has("0" * 32, 0)
    path = url / claim_name(1)
    for opened in (0, 2, 10**6, -1, "x"):
        claim = {k: v for k, v in open_json(path.read_bytes(), "x").items() if k not in ("opened", "session")}
        path.write_bytes(seal_json({**claim, "opened": opened, "session": "f" * 32}))
        assert not Sessions(storage, record).has("f" * 32, 1)
    path.unlink()
    first = Log(storage).read(0).commit_id
    assert Sessions(storage, record).has(first, 1)         # without a claim, the log says it


def test_epochs_read_the_ends_of_runs(tmp_path: Path) -> None:
    url, rows = tmp_path / "s.zarr", 20_000
    with zstore.Writer(url, commit_every_s=None) as writer:
        for epoch in range(3):
            writer.append(np.arange(rows), np.ones((rows, 2), np.float32), epoch=epoch)
            writer.commit()
    reader = zstore.Reader(url)
    with counted_reads() as seen, pytest.MonkeyPatch.context() as patch:
        patch.setattr("zstore.runs.whole", None)           # no run is read whole
        assert reader.epochs.tolist() == [0, 1, 2] and len(reader.epoch(1)) == rows
    assert 0 < seen[0] <= 3 * 2**14


def test_a_header_without_a_seal_counts_with_its_run_only(tmp_path: Path) -> None:
    """As release 0.1 wrote it: the whole run is checked first, and one that fails is not believed."""
    url = tmp_path / "s.zarr"
    with zstore.Writer(url, commit_every_s=None) as writer:
        writer.append(np.arange(50), np.ones((50, 2), np.float32), epoch=7)
    name = zstore.Reader(url)._now()[0].record.index[0]
    path = url / run_name(name)
    data = path.read_bytes()
    size = int.from_bytes(data[-8:-4], "little")
    sealed = data[-8 - size:-8]
    plain = sealed[:sealed.rindex(b',"checksum"')] + b"}"
    body = data[:-8 - size] + plain + len(plain).to_bytes(4, "little")
    old = body + crc32c(body).to_bytes(4, "little")
    path.write_bytes(old)
    assert parse_end(lambda at, length: old[at:at + length], len(old), name)[1] is False
    assert parse_run(old, name)[0] == parse_run(data, name)[0]
    assert zstore.Reader(url).epochs.tolist() == [7] and zstore.verify(url) == []
    forged = old.replace(b"[[7,0,50]]", b"[[8,0,50]]")
    assert forged != old
    path.write_bytes(forged)
    assert zstore.Reader(url).epochs.tolist() == [7]       # from the rows themselves


def test_a_sealed_header_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    url = tmp_path / "s.zarr"
    with zstore.Writer(url, commit_every_s=None) as writer:
        writer.append(np.arange(50), np.ones((50, 2), np.float32), epoch=7)
    path = url / run_name(zstore.Reader(url)._now()[0].record.index[0])
    path.write_bytes(path.read_bytes().replace(b"[[7,0,50]]", b"[[8,0,50]]"))
    assert zstore.Reader(url).epochs.tolist() == [7]


def test_a_writer_keeps_no_run_that_was_merged(tmp_path: Path) -> None:
    """What it knows of runs is of those that head names."""
    with zstore.Writer(tmp_path / "s.zarr", commit_every_s=None) as writer:
        for number in range(60):
            writer.append(np.arange(8), np.ones((8, 2), np.float32), epoch=number // 30)
            writer.commit()
        counter: Any = writer._core and writer._core._counter
        assert 0 < len(counter._headers) < 30 and len(counter._checked) < 30


def test_a_commit_of_many_extents_makes_no_loop_over_them(tmp_path: Path) -> None:
    """Adding to, cutting and taking apart of a hundred thousand extents is done by numpy: seconds in Python, if not."""
    from zstore.format.extents import Extents

    many = Extents((3 * n, 2) for n in range(100_000))
    calls = 0

    def trace(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += "zstore" in frame.f_code.co_filename       # not what the collector of garbage calls in between

    import sys
    before = sys.getprofile()
    sys.setprofile(trace)
    try:
        more = many | Extents([(300_000, 5)])
        less = more - Extents([(1, 1)])
        both = less & many
        again = Extents.read(less.listed())
    finally:
        sys.setprofile(before)
    assert len(both) == 199_999 and again == less and calls < 2_000
