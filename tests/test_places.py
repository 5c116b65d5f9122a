"""Folders on file systems that lack something: hard links, locks that reach other machines, mappings."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.errors import Conflict
from zstore.storage import leases, local_life, mounts
from zstore.storage.local import LocalStorage
from zstore.storage.mounts import Place, file_system, place_of
from zstore.storage.signs import FolderSigns


def rows(start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.arange(start, start + count)
    return ids, np.repeat(ids[:, None], 4, axis=1).astype(np.float32)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every folder lies on NFS; a sign of life is renewed every 50 ms and stale after 400."""
    monkeypatch.setattr(local_life, "place_of", lambda folder: Place("nfs4", True, links=True, locks=False, maps=True))
    monkeypatch.setattr(leases, "RENEW_S", 0.05)
    monkeypatch.setattr(leases, "STALE_S", 0.4)


def test_the_kind_of_a_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mounts"
    table.write_text("36 35 98:0 / / rw,noatime master:1 - ext4 /dev/root rw\n"
                     "37 36 0:40 / /data rw - nfs4 server:/x rw,vers=4.2\n"
                     "38 36 0:41 / /data/with\\040blank rw shared:3 - lustre mgs:/x rw\n"
                     "39 36 0:42 / /data/local rw - tmpfs tmpfs rw\n"
                     "40 36 0:42 / /data/local rw - fuse.sshfs host:/ rw\n"
                     "a line that is cut sh\n")
    monkeypatch.setattr(mounts, "MOUNTS", table)
    wanted = {"/": "ext4", "/database": "ext4", "/data": "nfs4", "/data/a/b": "nfs4", "/data/with blank/x": "lustre",
              "/data/local": "fuse.sshfs"}
    assert {place: file_system(place) for place in wanted} == wanted
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "none")
    assert file_system("/") == ""


def test_an_unknown_kind_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "file_system", lambda folder: "strangefs")
    assert place_of(str(tmp_path / "not" / "yet")) == Place("strangefs", False, links=True, locks=True, maps=True)

    def refuse(code: int) -> Callable[..., None]:
        def call(*args: Any, **options: Any) -> None:
            raise OSError(code, os.strerror(code))
        return call
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse(errno.EPERM))
        patch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
        patch.setattr("mmap.mmap", refuse(errno.ENODEV))
        assert place_of(str(tmp_path)) == Place("strangefs", False, links=False, locks=False, maps=False)
    with monkeypatch.context() as patch:            # names that can be made twice, locks that two may hold
        patch.setattr(os, "link", lambda *args: None)
        patch.setattr(fcntl, "flock", lambda *args: None)
        assert place_of(str(tmp_path)) == Place("strangefs", False, links=False, locks=False, maps=True)
    assert os.listdir(tmp_path) == []


def test_without_hard_links(url: str, monkeypatch: pytest.MonkeyPatch, sound: Callable[[str], None]) -> None:
    """Refused at the door, unless nobody else writes."""
    def no_link(*args: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", *args)
    monkeypatch.setattr(local_life, "place_of", lambda folder: Place("exfat", False, links=False, locks=True, maps=True))
    monkeypatch.setattr(os, "link", no_link)
    with pytest.raises(Conflict, match=r"lies on a file system \(exfat\) without hard links.*only_writer=True if nobody"):
        zstore.Writer(url)
    assert not Path(url).exists()
    for start in (0, 20):
        with zstore.Writer(url, only_writer=True, rows_per_shard=16) as writer:
            writer.append(*rows(start, 20))
            writer.commit(tag=f"from-{start}")
    with pytest.raises(FileExistsError, match="names version"), zstore.Writer(url, only_writer=True) as writer:
        writer.commit(tag="from-0")
    assert zstore.Reader(url).ids.tolist() == list(range(40))
    sound(url)


def test_signs_of_life(url: str, network: None, sound: Callable[[str], None]) -> None:
    """A writer that lives is left alone, one that was killed is found dead when its sign is stale."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        writer = zstore.Writer(url, rows_per_shard=16)
        writer.append(*rows(0, 5))
        writer.commit()
        os.write(told, b"x")
        time.sleep(600)
    assert os.read(ready, 1) == b"x"
    for pipe in (ready, told):
        os.close(pipe)
    assert len(os.listdir(Path(url) / "_zstore/live" / f"{0:020d}")) == 1
    with pytest.raises(Conflict, match=f"is being written by pid {child} on"):
        zstore.Writer(url)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with zstore.Writer(url) as writer:
        writer.append(*rows(5, 5))
    assert zstore.Reader(url).ids.tolist() == list(range(10))
    assert os.listdir(Path(url) / "_zstore/live") == [f"{0:020d}"]            # the dead one's; ours is gone
    sound(url)


def test_a_store_from_a_place_without_locks(url: str, monkeypatch: pytest.MonkeyPatch, sound: Callable[[str], None]) -> None:
    """It was copied with a dead session's sign of life: a folder where here a lock's file would be."""
    with zstore.Writer(url, rows_per_shard=16) as writer:
        writer.append(*rows(0, 5))
        version = writer.commit().session
    live = Path(url) / "_zstore/live" / f"{version:020d}"
    live.unlink()
    live.mkdir()
    (live / "0123").write_bytes(b"1")
    os.utime(live / "0123", (time.time() - 100,) * 2)
    with zstore.Writer(url) as writer:
        writer.append(*rows(5, 5))
    assert zstore.Reader(url).ids.tolist() == list(range(10))
    sound(url)


def test_what_a_place_offers_is_stated(tmp_path: Path, network: None) -> None:
    said = LocalStorage(tmp_path / "a.zarr").offers()
    assert said == {"file system": "nfs4", "create": "atomic (link)", "rewrite": "atomic (rename)",
                    "locks": "signs of life, every 20 s", "mapping": "yes"}


def test_a_member_that_comes_while_the_last_one_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the signs goes between the making of it and that of the sign."""
    make, taken = os.makedirs, []

    def made_and_gone(path: str, **options: Any) -> None:
        make(path, **options)
        if path.endswith("5") and len(taken) < 2:
            taken.append(path)
            os.rmdir(path)

    monkeypatch.setattr(os, "makedirs", made_and_gone)
    FolderSigns(str(tmp_path)).touch("_zstore/live/5/a")
    assert len(taken) == 2 and os.listdir(tmp_path / "_zstore/live/5") == ["a"]


def test_signs_of_another_machine_are_seen_from_the_servers_own_disk(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with zstore.Writer(url, rows_per_shard=16) as writer:
        writer.append(*rows(0, 5))
        version = writer.commit().session
    live = Path(url) / "_zstore/live" / f"{version:020d}"
    live.unlink()
    lease = leases.Leases(FolderSigns(url)).share(f"_zstore/live/{version:020d}")
    monkeypatch.setattr(LocalStorage, "patience_s", 0.2)
    with pytest.raises(Conflict, match="is being written by"):
        zstore.Writer(url)
    lease.release()
    with zstore.Writer(url) as writer:
        writer.append(*rows(5, 5))
    assert zstore.Reader(url).ids.tolist() == list(range(10))


def test_a_lock_that_is_never_let_go_holds_up_no_commit(url: str, monkeypatch: pytest.MonkeyPatch, children: Any) -> None:
    """Somebody was stopped in the midst of the projection: the rows are committed, and the documents wait."""
    with zstore.Writer(url, rows_per_shard=16) as writer:
        writer.append(*rows(0, 5))
    monkeypatch.setattr(local_life, "LOCK_S", 0.2)
    holder = children.start("""
        import sys, time
        from zstore.storage.local import LocalStorage
        with LocalStorage(sys.argv[1]).exclusive():
            print("held", flush=True)
            sys.stdin.readline()
    """, url)
    assert children.line(holder) == "held"
    with pytest.warns(UserWarning, match="documents could not be brought to head.*locked by another process"):
        writer = zstore.Writer(url)
        writer.append(*rows(5, 5))
        writer.commit()
    children.tell(holder)
    holder.wait(30)
    writer.close()
    assert zstore.Reader(url).ids.tolist() == list(range(10))
    assert zstore.verify(url) == []
