"""Sessions: marks and checkpoints, rolling back, forks, exits, and several writers of one launch."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.errors import BehindCheckpoint, Conflict, NotFound


def rows(start: int, count: int) -> tuple[Any, Any]:
    """Ids, and vectors that say which id they belong to."""
    ids = np.arange(start, start + count)
    return ids, np.repeat(ids[:, None], 4, axis=1).astype(np.float32)


def ids_of(url: Any, **version: Any) -> list[int]:
    """The ids of a version, in row order; each row holds its own vector."""
    reader = zstore.Reader(url, **version)
    assert (reader.vectors == reader.ids[:, None]).all()
    ids: list[int] = reader.ids.tolist()
    return ids


@pytest.fixture
def trained(url: str) -> tuple[str, dict[str, Any]]:
    """Ten rows, a mark, ten more rows."""
    with zstore.Writer(url, rows_per_shard=8) as writer:
        writer.append(*rows(0, 10))
        mark = writer.state_dict()
        writer.append(*rows(10, 10))
    assert mark is not None
    return url, mark


# -- marks ------------------------------------------------------------------------------------------------------------

def test_a_mark_is_plain_and_small(trained: tuple[str, dict[str, Any]]) -> None:
    url, mark = trained
    assert set(mark) == {"store_id", "version", "commit_id"} and mark["version"] == 1
    assert all(type(value) in (str, int) for value in mark.values())
    assert zstore.history(url)[1].mark == mark


def test_load_state_dict_rolls_back(trained: tuple[str, dict[str, Any]], sound: Callable[[str], None]) -> None:
    url, mark = trained
    with zstore.Writer(url) as writer:
        with pytest.warns(UserWarning, match=r"rolled back from version \d+ to the rows of version 1: 10 rows are cut"):
            writer.load_state_dict(mark)
        assert ids_of(url) == list(range(10))           # at once
        writer.append(*rows(100, 3))
        with pytest.raises(ValueError, match="before the first append"):
            writer.load_state_dict(mark)
    assert ids_of(url) == [*range(10), 100, 101, 102]
    assert ids_of(url, version=2) == list(range(20))    # what was cut stays readable at its version
    sound(url)


def test_cut_addresses_are_never_given_again(trained: tuple[str, dict[str, Any]]) -> None:
    url, mark = trained
    before = zstore.Reader(url)
    cut = before._now()[0].record.extents
    with pytest.warns(UserWarning, match="cut"):
        writer = zstore.Writer(url, at=mark)
    with writer:
        writer.append(*rows(100, 30))
    after = zstore.Reader(url)._now()[0].record.extents
    kept = zstore.Reader(url, version=1)._now()[0].record.extents
    assert len(after & cut) == len(kept) == 10


def test_loading_the_mark_of_head_cuts_nothing(url: str, recwarn: pytest.WarningsRecorder,
                                               sound: Callable[[str], None]) -> None:
    with zstore.Writer(url, rows_per_shard=8) as writer:
        writer.append(*rows(0, 10))
        mark = writer.state_dict()
    with zstore.Writer(url) as writer:
        writer.load_state_dict(mark)
        writer.append(*rows(10, 4))
    assert ids_of(url) == list(range(14)) and not recwarn.list
    # The tail was gone on with: no shard more than an uninterrupted run would have.
    assert len(list(Path(url).glob("vectors/c.*"))) == 2
    sound(url)


def test_none_is_version_0(trained: tuple[str, dict[str, Any]]) -> None:
    url, _ = trained
    with zstore.Writer(url) as writer:
        with pytest.warns(UserWarning, match="to the rows of version 0: 20 rows are cut"):
            writer.load_state_dict(None)
        writer.append(*rows(50, 2))
    assert ids_of(url) == [50, 51]


def test_none_where_there_is_no_store(url: str) -> None:
    with zstore.Writer(url, rows_per_shard=8) as writer:
        assert writer.state_dict() is None
        writer.load_state_dict(None)
        writer.append(*rows(0, 2))
    assert ids_of(url) == [0, 1]
    with zstore.Writer(url + "2") as writer, pytest.raises(BehindCheckpoint, match="no store"):
        writer.load_state_dict(zstore.history(url)[0].mark)


def test_the_mark_of_another_store(trained: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    _, mark = trained
    other = str(tmp_path / "other.zarr")
    with zstore.Writer(other, rows_per_shard=8) as writer:
        writer.append(*rows(0, 3))
    with zstore.Writer(other) as writer:
        with pytest.raises(ValueError, match=f"the mark is of store {mark['store_id']}"):
            writer.load_state_dict(mark)
        writer.append(*rows(3, 3))
    assert ids_of(other) == list(range(6))


def test_a_store_behind_its_checkpoint(url: str, tmp_path: Path) -> None:
    """The store was restored from an older copy: the checkpoint names a commit that it does not have."""
    backup = str(tmp_path / "backup.zarr")
    with zstore.Writer(url, rows_per_shard=8) as writer:
        writer.append(*rows(0, 10))
        writer.commit()
        shutil.copytree(url, backup)
        writer.append(*rows(10, 10))
        mark = writer.state_dict()
    assert mark is not None
    shutil.rmtree(url)
    shutil.copytree(backup, url)
    for call in (lambda: zstore.Writer(url, at=mark), lambda: zstore.rollback(url, mark)):
        with pytest.raises(BehindCheckpoint, match=r"names version 2, but .* ends at version 1: 1 commits are missing"):
            call()
    assert ids_of(url) == list(range(10))


def test_a_store_that_went_another_way(url: str, tmp_path: Path) -> None:
    """The copy was trained on: it has the number, but not the commit."""
    copy = str(tmp_path / "copy.zarr")
    with zstore.Writer(url, rows_per_shard=8) as writer:
        writer.append(*rows(0, 10))
        writer.commit()
    shutil.copytree(url, copy)
    marks = []
    for place, start in ((url, 10), (copy, 1000)):
        with zstore.Writer(place) as writer:
            writer.append(*rows(start, 10))
            marks.append(writer.state_dict())
    assert marks[0] is not None and marks[1] is not None and marks[0]["version"] == marks[1]["version"]
    with pytest.raises(BehindCheckpoint, match="the store was restored or went another way"):
        zstore.Writer(copy, at=marks[0])
    with zstore.Writer(url, at=marks[0]):
        pass
    assert ids_of(copy)[-1] == 1009 and ids_of(url)[-1] == 19


@pytest.mark.parametrize("kind", ["mark", "commit", "version", "tag"])
@pytest.mark.parametrize("by", ["Writer", "rollback"])
def test_rolling_back_to(url: str, kind: str, by: str, sound: Callable[[str], None]) -> None:
    with zstore.Writer(url, rows_per_shard=8) as writer:
        writer.append(*rows(0, 5))
        commit = writer.commit(tag="here")
        assert commit is not None
        writer.append(*rows(5, 20))
    to = {"mark": commit.mark, "commit": commit, "version": commit.version, "tag": "here"}[kind]
    with pytest.warns(UserWarning, match="20 rows are cut"):
        if by == "Writer":
            zstore.Writer(url, at=to).close()
        else:
            assert zstore.rollback(url, to).rows == 5
    assert ids_of(url) == list(range(5))
    with zstore.Writer(url) as writer:
        writer.append(*rows(70, 20))
    assert ids_of(url) == [*range(5), *range(70, 90)]
    sound(url)


def test_mode_x(trained: tuple[str, dict[str, Any]]) -> None:
    url, _ = trained
    with zstore.Writer(url):
        pass
    with pytest.raises(FileExistsError, match=r"exists: 20 rows, version 4, 2 sessions from .* UTC to .* UTC") as caught:
        zstore.Writer(url, mode="x")
    assert "mode='a' continues it" in str(caught.value)
    with zstore.Writer(url + "2", mode="x", rows_per_shard=8) as writer:
        writer.append(*rows(0, 1))


MAKE = """
import sys
import numpy as np
import zstore
with zstore.Writer(sys.argv[1], mode="x", session="one launch", member=1) as writer:
    writer.append([0, 1, 2], np.repeat(np.arange(3.0)[:, None], {dim}, axis=1), epoch=0)
"""


@pytest.mark.parametrize("session", [None, "one launch"])
def test_mode_x_at_the_first_batch(session: str | None, url: str) -> None:
    """Nothing was there when both began. Who appends first has the store; who is of the same session joins it."""
    ids, vectors = rows(3, 3)[:2]
    with zstore.Writer(url, mode="x", session=session) as late:
        subprocess.run([sys.executable, "-c", MAKE.format(dim=vectors.shape[1]), url], check=True)
        if session is None:
            with pytest.raises(FileExistsError, match="exists: 3 rows"):
                late.append(ids, vectors, epoch=0)
        else:
            late.append(ids, vectors, epoch=0)
    assert sorted(ids_of(url)) == [*range(3 if session is None else 6)]
    with pytest.raises(FileExistsError):
        zstore.Writer(url, mode="x", session="another launch")


def test_rollback_while_a_writer_lives(trained: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    url, mark = trained
    monkeypatch.setattr("zstore.storage.local.LocalStorage.patience_s", 0.05)
    with zstore.Writer(url) as writer:
        with pytest.raises(Conflict, match=rf"is being written by pid {os.getpid()} on .* since .*; wait until it closes"):
            zstore.rollback(url, mark)
        writer.append(*rows(20, 1))
    assert ids_of(url) == list(range(21))


# -- forks, exits, and the same process ----------------------------------------------------------------------------------

def test_a_forked_child_is_inert(url: str, sound: Callable[[str], None]) -> None:
    writer = zstore.Writer(url, rows_per_shard=8)
    writer.append(*rows(0, 10))
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(30)                                # a child that hangs must not outlive the test
        code = 1
        try:
            refused = 0
            for call in (lambda: writer.append(*rows(90, 5)), writer.commit, writer.state_dict,
                         lambda: writer.add_field("x", [1])):
                try:
                    call()
                except Conflict as error:
                    refused += "belongs to the parent process" in str(error)
            writer.close()
            code = 0 if refused == 4 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(zstore.Reader(url)) == 0                 # nothing was committed by the child
    writer.append(*rows(10, 10))
    writer.close()
    assert ids_of(url) == list(range(20))
    sound(url)


@pytest.mark.parametrize("ending", ["end", "sys.exit(3)", "raise RuntimeError('boom')"])
def test_a_script_that_never_closes(url: str, children: Any, ending: str, sound: Callable[[str], None]) -> None:
    child = children.start(f"""
        import sys, numpy as np, zstore
        writer = zstore.Writer(sys.argv[1], rows_per_shard=8)
        for start in range(0, 100, 10):
            ids = np.arange(start, start + 10)
            writer.append(ids, np.repeat(ids[:, None], 4, axis=1).astype("f4"))
        {ending if ending != "end" else ""}
    """, url)
    child.communicate(timeout=60)
    assert child.returncode == {"end": 0, "sys.exit(3)": 3}.get(ending, 1)
    assert ids_of(url) == list(range(100))
    sound(url)


def test_opening_again_in_one_process_closes_the_earlier(url: str, sound: Callable[[str], None]) -> None:
    first = zstore.Writer(url, rows_per_shard=8)
    first.append(*rows(0, 10))
    with pytest.warns(UserWarning, match=r"still open for writing in this process; that writer was closed"):
        second = zstore.Writer(url)
    with pytest.raises(ValueError, match="is closed"):
        first.append(*rows(10, 1))
    second.append(*rows(10, 10))
    second.close()
    assert ids_of(url) == list(range(20))
    sound(url)


def test_takeover_of_a_writer_that_hangs(url: str, children: Any, caplog: pytest.LogCaptureFixture,
                                         sound: Callable[[str], None]) -> None:
    child = children.start("""
        import sys, numpy as np, zstore
        writer = zstore.Writer(sys.argv[1], rows_per_shard=8, commit_every_s=None)
        ids = np.arange(10)
        writer.append(ids, np.repeat(ids[:, None], 4, axis=1).astype("f4"))
        writer.commit()
        writer.append(ids + 10, np.repeat(ids[:, None] + 10, 4, axis=1).astype("f4"))
        print("hangs", flush=True)
        sys.stdin.readline()
        try:
            writer.commit()
        except zstore.ZStoreError as error:
            print(type(error).__name__, error, flush=True)
        try:
            writer.close()
        except zstore.ZStoreError as error:
            print(type(error).__name__, flush=True)
    """, url)
    assert children.line(child) == "hangs"
    with caplog.at_level("WARNING", "zstore"), zstore.Writer(url, takeover=True) as writer:
        writer.append(*rows(50, 10))
    assert f"taken over from pid {child.pid}" in caplog.text
    children.tell(child)
    assert children.line(child).startswith(f"StaleWriter {url} was taken over by pid {os.getpid()} on ")
    assert children.line(child) == "StaleWriter"
    assert ids_of(url) == [*range(10), *range(50, 60)]
    sound(url)


# -- several writers of one launch -----------------------------------------------------------------------------------------

MEMBER = """
    import sys, numpy as np, zstore
    url, member, batches = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with zstore.Writer(url, session="launch-7", member=member, rows_per_shard=16, commit_every_s=None) as writer:
        print("open", flush=True)
        sys.stdin.readline()
        for batch in range(batches):
            ids = np.arange(batch * 7, batch * 7 + 7) * 2 + member
            writer.append(ids, np.repeat(ids[:, None], 4, axis=1).astype("f4"))
            if batch % 3 == member:
                assert writer.commit().member in (0, 1)
    print(writer, flush=True)
"""


def test_two_processes_share_a_session(url: str, children: Any, sound: Callable[[str], None]) -> None:
    """Each commit is a delta: both members' rows are all there, whoever lost how many numbers."""
    members = [children.start(MEMBER, url, member, 40) for member in (0, 1)]
    for child in members:
        assert children.line(child) == "open"
    for child in members:
        children.tell(child)
    for child in members:
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
    assert sorted(ids_of(url)) == list(range(560))
    history = zstore.history(url)
    assert {commit.session for commit in history} == {0} and {commit.member for commit in history} == {0, 1}
    assert sum(commit.new_rows for commit in history) == 560 and not any(commit.duplicates for commit in history)
    totals = np.cumsum([commit.new_rows for commit in history])
    assert [commit.rows for commit in history] == totals.tolist()       # no commit restated another's rows away
    with zstore.Writer(url) as writer:
        writer.append(*rows(560, 10))
    assert sorted(ids_of(url)) == list(range(570))
    sound(url)


def test_members_of_one_process(url: str, sound: Callable[[str], None]) -> None:
    barrier = threading.Barrier(3)
    failures: list[BaseException] = []

    def work(member: int) -> None:
        try:
            with zstore.Writer(url, session="s", member=member, rows_per_shard=8, commit_every_s=None) as writer:
                barrier.wait(30)
                for batch in range(10):
                    writer.append(*rows(member * 100 + batch * 10, 10))
                    writer.commit()
        except BaseException as error:
            failures.append(error)
            barrier.abort()
    workers = [threading.Thread(target=work, args=(member,)) for member in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures, failures
    assert sorted(ids_of(url)) == list(range(300))
    sound(url)


def test_a_shared_session_has_collective_marks(trained: tuple[str, dict[str, Any]]) -> None:
    url, mark = trained
    with pytest.warns(UserWarning, match="cut"):
        leader = zstore.Writer(url, session="s", at=mark)
    with leader:
        for call in (leader.state_dict, lambda: leader.load_state_dict(mark)):
            with pytest.raises(Conflict, match="shared session"):
                call()
        with pytest.raises(Conflict, match="every member must name the same mark"):
            zstore.Writer(url, session="s", member=1, at=2)
        with zstore.Writer(url, session="s", member=1, at=mark) as peer:
            peer.append(*rows(30, 5))
            leader.append(*rows(40, 5))
            commits = [peer.commit(), leader.commit()]
    best = max(commits, key=lambda commit: commit.version)      # type: ignore[union-attr, arg-type, return-value]
    assert best is not None and best.rows == 20
    assert sorted(ids_of(url, version=best.version)) == [*range(10), *range(30, 35), *range(40, 45)]


def test_another_launch_is_refused_while_one_lives(url: str, monkeypatch: pytest.MonkeyPatch, children: Any) -> None:
    child = children.start("""
        import sys, numpy as np, zstore
        writer = zstore.Writer(sys.argv[1], session="launch-7")
        writer.append([0], np.zeros((1, 4), "f4"))
        writer.commit()
        print("open", flush=True)
        sys.stdin.readline()
    """, url)
    children.line(child)
    monkeypatch.setattr("zstore.storage.local.LocalStorage.patience_s", 0.05)
    for session in (None, "launch-8"):
        with pytest.raises(Conflict, match=f"written by pid {child.pid} on"):
            zstore.Writer(url, session=session)
    children.kill(child)
    with zstore.Writer(url, session="launch-8") as writer:
        writer.append(*rows(1000, 1))
    assert ids_of(url)[-1] == 1000


def test_an_unknown_version_at_opening_holds_nothing(trained: tuple[str, dict[str, Any]]) -> None:
    url, _ = trained
    with pytest.raises(NotFound, match="no version 99"):
        zstore.Writer(url, at=99)
    with zstore.Writer(url) as writer:
        writer.append(*rows(20, 1))
    assert ids_of(url) == list(range(21))
