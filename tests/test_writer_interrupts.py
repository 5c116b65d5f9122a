"""Interrupts, errors that heal, and input that a record could not hold: nothing is lost, parted or bricked."""

from __future__ import annotations

import errno
import gc
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.storage.local import LocalStorage
from zstore.writing import entries

DIM = 4


def rows(start: int, count: int) -> tuple[list[str], Any]:
    """Ids r<n> from ``start`` on, and vectors that hold n."""
    numbers = np.arange(start, start + count, dtype=np.float32)
    return [f"r{n}" for n in range(start, start + count)], np.repeat(numbers[:, None], DIM, axis=1)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [29, 50, 500])
def test_deep_json_is_refused_and_nothing_is_bricked(url: str, depth: int) -> None:
    with zstore.Writer(url) as writer:
        writer.append(*rows(0, 2))
        with pytest.raises(ValueError, match="nested too deeply"):
            writer.commit(meta=nested(depth))
        assert writer.commit(meta=nested(20)) is not None
    with pytest.raises(ValueError, match="nested too deeply"):
        zstore.Writer(url, attrs={"a": nested(depth)})
    assert len(zstore.Reader(url)) == 2


@pytest.mark.parametrize("member", ["a", None, -1, 1.5, True])
def test_a_member_is_a_number(url: str, member: Any) -> None:
    with zstore.Writer(url) as writer:
        writer.append(*rows(0, 2))
    with pytest.raises(ValueError, match="member must be"):
        zstore.Writer(url, member=member)
    assert len(zstore.Reader(url)) == 2


def failing(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The next drafts find a full disk, so many times."""
    draft, left = LocalStorage.draft, [times]

    def full(self: LocalStorage, *args: Any, **options: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return draft(self, *args, **options)
    monkeypatch.setattr(LocalStorage, "draft", full)


def test_an_error_that_healed_costs_a_close_nothing(url: str, monkeypatch: pytest.MonkeyPatch,
                                                    sound: Callable[[str], None]) -> None:
    writer = zstore.Writer(url, rows_per_shard=16, codec="raw")
    writer.append(*rows(0, 10))
    writer.commit()
    failing(monkeypatch, 1)
    writer.append(*rows(10, 100))
    while writer._core is not None and writer._core.pipeline._failure is None:
        pass                        # the background meets the full disk
    writer.close()
    assert len(zstore.Reader(url)) == 110
    sound(url)


def test_a_close_that_fails_says_how_many_rows(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = zstore.Writer(url)
    writer.append(*rows(0, 10))
    writer.commit()
    writer.append(*rows(10, 7))
    failing(monkeypatch, 100)
    with pytest.raises(OSError, match="7 rows that were appended"):
        writer.close()


def test_many_runs_in_one_commit_are_counted_right(url: str, monkeypatch: pytest.MonkeyPatch,
                                                   sound: Callable[[str], None]) -> None:
    monkeypatch.setattr(entries, "SPILL_ROWS", 64)
    with zstore.Writer(url, rows_per_shard=128) as writer:
        for start in range(0, 640, 64):
            writer.append(*rows(start, 64))
        writer.append(*rows(0, 3), epoch=1)
        first = writer.commit()
        writer.append(*rows(600, 100))
        second = writer.commit()
    assert first is not None and second is not None
    assert (first.duplicates, second.duplicates) == (0, 40)
    head = zstore.Reader(url)
    assert len(head.latest()) == 700 and len(head.epoch(1)) == 3
    sound(url)


def test_a_commit_that_failed_is_made_good_by_the_next(url: str, monkeypatch: pytest.MonkeyPatch,
                                                       sound: Callable[[str], None]) -> None:
    with zstore.Writer(url, rows_per_shard=64) as writer:
        writer.append(*rows(0, 10))
        writer.commit()
        create = LocalStorage.create
        monkeypatch.setattr(LocalStorage, "create", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        writer.append(*rows(10, 10))
        with pytest.raises(OSError, match="full"):
            writer.commit()
        monkeypatch.setattr(LocalStorage, "create", create)
        writer.append(*rows(20, 100))
    assert len(zstore.Reader(url)) == 120
    sound(url)


def test_a_refused_reopening_leaves_the_writer_open(url: str) -> None:
    with zstore.Writer(url) as writer:
        writer.append(*rows(0, 2))
        with pytest.raises(ValueError, match="dim=9 contradicts"):
            zstore.Writer(url, dim=9)
        writer.append(*rows(2, 2))
    assert len(zstore.Reader(url)) == 4


@pytest.mark.parametrize("fill", ["a\0", "\ud800", 3])
def test_a_fill_is_looked_at_before_a_field_is_added(url: str, fill: Any) -> None:
    with zstore.Writer(url) as writer:
        writer.append(*rows(0, 2))
        with pytest.raises(ValueError, match="fill"):
            writer.add_field("text", ["a", "b"], fill=fill)
        writer.append(*rows(2, 2))
    assert len(zstore.Reader(url)) == 4


def test_a_forked_child_commits_its_own_writer_at_exit(url: str) -> None:
    script = ("import os, sys, numpy, zstore\n"
              "if os.fork() == 0:\n"
              "    writer = zstore.Writer(sys.argv[1])\n"
              "    writer.append([1, 2], numpy.ones((2, 4)))\n"
              "    sys.exit(0)\n"
              "os.wait()\n")
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, url], check=True, timeout=60)
    assert len(zstore.Reader(url)) == 2


def test_repeated_rows_are_one_row_of_an_epoch(url: str) -> None:
    with zstore.Writer(url) as writer:
        writer.append(*rows(0, 3))
    assert len(zstore.Reader(url).select([1, 1, 2]).epoch(0)) == 2


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_interrupts_part_no_batch(tmp_path: Path, codec: str, sound: Callable[[str], None]) -> None:
    """Ctrl-C in a notebook, over and over, at any moment of append and commit: every batch that is there is there whole
    and once, what a commit gave is there, and the writer goes on."""
    url, rng, armed = str(tmp_path / "run.zarr"), random.Random(7), False

    def stop(*_: Any) -> None:
        if armed:                   # another thread may take the alarm, so it can arrive after the timer was stopped
            raise KeyboardInterrupt
    before = signal.signal(signal.SIGALRM, stop)
    gc.disable()                    # an interrupt in some library's gc callback is swallowed, and pytest calls that an error
    started, kept, writer = 0, 0, zstore.Writer(url, codec=codec, rows_per_shard=64)
    try:
        writer.append(*rows(0, 50))
        started = 50
        for _ in range(150):
            batch, started = rows(started, 50), started + 50
            try:
                try:
                    armed = True
                    signal.setitimer(signal.ITIMER_REAL, rng.random() * 0.004)
                    writer.append(*batch)
                    if rng.random() < 0.3:
                        commit = writer.commit()
                        kept = commit.rows if commit is not None else kept
                finally:
                    armed = False
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
        writer.close()
    head = zstore.Reader(url)
    numbers = np.sort(np.array([int(name[1:]) for name in head.ids.tolist()]))
    assert len(numbers) >= kept and len(np.unique(numbers)) == len(numbers)
    batches, counts = np.unique(numbers // 50, return_counts=True)
    assert len(batches) > 20 and (counts == 50).all()
    assert (head.vectors[:, 0].astype(int) == np.array([int(name[1:]) for name in head.ids.tolist()])).all()
    sound(url)

