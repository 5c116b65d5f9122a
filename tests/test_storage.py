"""One contract for every storage that writes, and what is special to each."""

from __future__ import annotations

import errno
import fcntl
import importlib
import os
import pickle
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zstore.errors import Conflict, MissingExtra
from zstore.storage import Storage, open_storage
from zstore.storage.local import LocalStorage
from zstore.storage.memory import MemoryStorage
from zstore.storage.remote import RemoteStorage, filesystem, printable

# Forking beside threads is the very thing under test; Python 3.12 and later warn of it.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

FOLDERS = ["_zstore/tmp", "_zstore/live", "_zstore/commits", "vectors"]
NAME = "vectors/c.0.0"


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "local":
        yield prepared(LocalStorage(tmp_path / "a.zarr"))
        return
    url = f"memory://test-{uuid.uuid4().hex}"
    yield prepared(MemoryStorage(url))
    fs, path = filesystem(url)
    if fs.exists(path):
        fs.rm(path, recursive=True)


@pytest.fixture(params=["local", "memory", "s3"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """Where the contract holds that has no locks in it, and no pinned handles."""
    if request.param == "s3":
        server = request.getfixturevalue("s3")
        yield prepared(open_storage(server.url(), server.options))
    elif request.param == "local":
        yield prepared(LocalStorage(tmp_path / "a.zarr"))
    else:
        yield prepared(MemoryStorage(f"memory://test-{uuid.uuid4().hex}"))


def again(storage: Storage, place: str = "") -> Storage:
    """Another storage of the same place, or of one in it."""
    return open_storage(storage.url + place, getattr(storage, "_options", None))


@pytest.fixture
def local(tmp_path: Path) -> LocalStorage:
    return prepared(LocalStorage(tmp_path / "a.zarr"))


def prepared(storage: Any) -> Any:
    storage.make_folders(FOLDERS)
    return storage


def put(storage: Storage, name: str, data: bytes) -> None:
    storage.replace(storage.draft([data], "test"), name)


def forked(work: Callable[[], object]) -> int:
    """A child of this process that does the work and ends by itself; gives its process id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            status = 0 if work() in (None, True) else 2
        finally:
            os._exit(status)
    return child


def status_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    """A process that runs the program; its first line of output says that it is ready."""
    head = "import os, sys, time\nfrom zstore.storage import open_storage\nstorage = open_storage(sys.argv[1])\n"
    return subprocess.Popen([sys.executable, "-c", head + textwrap.dedent(program), *arguments],
                            stdout=subprocess.PIPE, text=True)


def ready(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(30)
    if process.stdout is not None:
        process.stdout.close()


# -- the contract ---------------------------------------------------------------------------------------------------

def test_an_absent_object_is_file_not_found(anywhere: Storage) -> None:
    storage = anywhere
    for absent in ("vectors/c.1.0", "nowhere/at/all"):
        assert not storage.exists(absent)
        with pytest.raises(FileNotFoundError):
            storage.read(absent)
        with pytest.raises(FileNotFoundError):
            storage.open(absent)
        storage.delete(absent)


def test_parts_of_every_sort_are_joined(anywhere: Storage) -> None:
    storage = anywhere
    floats = np.arange(6, dtype=np.float32).reshape(2, 3)
    times = np.array(["2024-01-01"], "datetime64[s]")
    parts = [b"ab", bytearray(b"cd"), memoryview(b"ef"), floats, np.zeros((0, 4)), b"", times, np.array(7, np.int64)]
    storage.replace(storage.draft(parts, "test"), NAME)
    assert storage.read(NAME) == (b"abcdef" + floats.tobytes() + times.tobytes() + np.int64(7).tobytes())


def test_parts_that_are_not_contiguous_are_refused_and_leave_nothing(anywhere: Storage) -> None:
    storage = anywhere
    for wrong in (np.zeros((4, 4))[:, ::2], memoryview(b"abcdef")[::2]):
        with pytest.raises(ValueError, match="contiguous"):
            storage.draft([b"a", wrong], "test")
    with pytest.raises(TypeError):
        storage.draft([b"a", "text"], "test")  # type: ignore[list-item]
    assert storage.list("_zstore/tmp") == []


def test_replace_is_atomic_and_a_pinned_handle_reads_the_old_bytes(storage: Storage) -> None:
    put(storage, NAME, b"old bytes")
    handle = storage.open(NAME)
    put(storage, NAME, b"new")
    assert (storage.read(NAME), handle.size, handle.read(0, 9)) == (b"new", 9, b"old bytes")
    storage.delete(NAME)
    assert not storage.exists(NAME)
    assert handle.read(4, 5) == b"bytes"
    handle.close()
    handle.close()


def test_readers_never_see_half_a_replace(anywhere: Storage) -> None:
    storage = anywhere
    put(storage, NAME, b"0" * 100_000)
    done = threading.Event()
    seen: set[int] = set()

    def watch() -> None:
        while not done.is_set():
            data = storage.read(NAME)
            seen.add(len(data) * 1000 + len(set(data)))

    thread = threading.Thread(target=watch)
    thread.start()
    for turn in range(50):
        put(storage, NAME, b"%d" % (turn % 10) * 100_000)
    done.set()
    thread.join()
    assert seen == {100_000_001}


def test_handle_reads_ranges(anywhere: Storage) -> None:
    storage = anywhere
    put(storage, NAME, b"0123456789")
    handle = storage.open(NAME)
    assert handle.read(2, 3) == b"234"
    assert handle.read(8, 100) == b"89"
    assert handle.read(10, 1) == handle.read(99, 1) == handle.read(3, 0) == b""
    for offset, length in ((-1, 1), (0, -1)):
        with pytest.raises(ValueError):
            handle.read(offset, length)
    handle.close()


def test_create_is_exclusive_among_racing_threads(anywhere: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = anywhere
    fs, _ = filesystem("memory://")
    looks = fs.exists

    def slow(path: str) -> bool:
        found = bool(looks(path))
        time.sleep(0.001)
        return found

    monkeypatch.setattr(fs, "exists", slow)
    for turn in range(10):
        name = f"_zstore/commits/{turn:020}.json"
        barrier = threading.Barrier(8)
        won: list[bytes] = []

        def race(number: int, name: str = name, barrier: threading.Barrier = barrier, won: list[bytes] = won) -> None:
            mine = b"%d" % number * 100
            draft = storage.draft([mine], "test")
            barrier.wait()
            if storage.create(draft, name):
                won.append(mine)

        threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [storage.read(name)] == won
    assert storage.list("_zstore/tmp") == []


def test_a_draft_is_invisible_and_a_discarded_one_is_gone(anywhere: Storage) -> None:
    storage = anywhere
    draft = storage.draft([b"x"], "test", durable=False)
    assert storage.list("vectors") == []
    storage.discard(draft)
    storage.discard(draft)
    assert storage.list("_zstore/tmp") == []
    with pytest.raises(FileNotFoundError):
        storage.replace(draft, NAME)
    with pytest.raises(FileNotFoundError):
        storage.create(draft, NAME)
    assert not storage.exists(NAME)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a", "a/../b", "a//b", "a/", "/", ".", "./a", "a/.", "a\0b"])
def test_names_that_escape_are_refused(anywhere: Storage, name: str) -> None:
    storage = anywhere
    for act in (storage.read, storage.open, storage.exists, storage.delete, storage.share_live,
                storage.try_exclusive_live):
        with pytest.raises(ValueError):
            act(name)
    for finish in (storage.replace, storage.create):
        with pytest.raises(ValueError):
            finish(storage.draft([b"x"], "test"), name)
    if name:
        for look in (storage.list, storage.folders):
            with pytest.raises(ValueError):
                look(name)
        for apply in (storage.sync, storage.make_folders):
            with pytest.raises(ValueError):
                apply([name])
        with pytest.raises(ValueError):
            storage.draft([b"x"], f"../{name}")
    assert storage.list("_zstore/tmp") == []


def test_list_and_folders_are_sorted_and_shallow(anywhere: Storage) -> None:
    storage = anywhere
    for name in ("vectors/b", "vectors/a", "vectors/deep/c", "zarr.json", "field.2/x"):
        storage.make_folders([name.rpartition("/")[0]])
        put(storage, name, b"")
    assert storage.list("vectors") == ["a", "b"]
    assert storage.folders("vectors") == ["deep"]
    assert storage.list("") == ["zarr.json"]
    assert [name for name in storage.folders("") if name != "_zstore"] == ["field.2", "vectors"]
    assert storage.list("absent") == storage.folders("absent") == storage.list("zarr.json") == []


def test_kind_tells_nothing_file_and_folder(anywhere: Storage) -> None:
    storage = anywhere
    put(storage, "a", b"x")
    assert storage.kind() == "folder"
    assert again(storage, "/a").kind() == "file"
    assert again(storage, "/absent").kind() == "nothing"
    storage.sync(["", "vectors"])
    storage.writable()


def test_live_locks_share_and_exclude(storage: Storage) -> None:
    name = "_zstore/live/7"
    first, second = storage.share_live(name), storage.share_live(name)
    assert storage.exists(name)
    assert storage.try_exclusive_live(name) is None
    first.release()
    first.release()
    assert storage.try_exclusive_live(name) is None
    second.release()
    alone = storage.try_exclusive_live(name)
    assert alone is not None and storage.try_exclusive_live(name) is None
    other = storage.try_exclusive_live("_zstore/live/8")
    assert other is not None
    other.release()

    held: list[Any] = []
    waiter = threading.Thread(target=lambda: held.append(storage.share_live(name)))
    waiter.start()
    waiter.join(0.1)
    assert waiter.is_alive() and not held
    alone.release()
    waiter.join(30)
    held[0].release()


def test_a_live_file_that_gc_removed_is_made_anew(storage: Storage) -> None:
    name = "_zstore/live/7"
    storage.share_live(name).release()
    storage.delete(name)
    lock = storage.try_exclusive_live(name)
    assert lock is not None and storage.exists(name)
    lock.release()


def test_exclusive_lets_one_thread_in(anywhere: Storage) -> None:
    storage = anywhere
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(20):
            with again(storage).exclusive():
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0002)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1} and len(most) == 80
    with pytest.raises(KeyError), storage.exclusive():
        raise KeyError
    with storage.exclusive():
        pass


def test_a_lock_released_in_a_forked_child_stays_the_parents(storage: Storage) -> None:
    lock = storage.share_live("_zstore/live/1")

    def work() -> bool:
        # The child's own lock gets the descriptor number that the parent's had.
        storage.share_live("_zstore/live/2")
        lock.release()
        return storage.try_exclusive_live("_zstore/live/2") is None

    assert status_of(forked(work)) == 0
    assert storage.try_exclusive_live("_zstore/live/1") is None
    lock.release()


def test_pickled_storage_reads_the_same_place(storage: Storage) -> None:
    put(storage, NAME, b"x")
    again = pickle.loads(pickle.dumps(storage))
    assert (again.url, again.read(NAME)) == (storage.url, b"x")


# -- local disks ----------------------------------------------------------------------------------------------------

def test_short_writes_are_continued(local: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.writev

    def seven(descriptor: int, buffers: list[memoryview]) -> int:
        left, cut = 7, []
        for buffer in buffers:
            cut.append(buffer[:left])
            left -= len(cut[-1])
        return real(descriptor, cut)

    monkeypatch.setattr(os, "writev", seven)
    parts = [bytes([number]) * (number % 13) for number in range(100)]
    local.replace(local.draft(parts, "test"), NAME)
    assert local.read(NAME) == b"".join(parts)


def test_more_parts_and_bytes_than_one_call_takes(local: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [b"%04d" % number for number in range(5000)]
    put(local, NAME, b"")
    local.replace(local.draft(parts, "test"), NAME)
    assert local.read(NAME) == b"".join(parts)
    monkeypatch.setattr("zstore.storage.descriptors._CALL_MAX", 10)
    local.replace(local.draft(parts, "test"), NAME)
    assert local.read(NAME) == b"".join(parts)


def test_short_reads_are_continued(local: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    put(local, NAME, bytes(range(100)))
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: real(fd, min(length, 7), offset))
    assert local.read(NAME) == bytes(range(100))
    handle = local.open(NAME)
    assert handle.read(90, 50) == bytes(range(90, 100))


@pytest.mark.parametrize("failing", ["writev", "fsync", "interrupt"])
def test_a_failed_draft_leaves_nothing(local: LocalStorage, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    calls: list[int] = []

    def fail(descriptor: int, *rest: Any) -> int:
        calls.append(descriptor)
        if failing == "writev" and len(calls) == 1:
            return os.write(descriptor, b"a")
        raise KeyboardInterrupt if failing == "interrupt" else OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync" if failing == "fsync" else "writev", fail)
    with pytest.raises((OSError, KeyboardInterrupt)) as caught:
        local.draft([b"aaaa", b"bbbb"], "5-shard")
    if failing != "interrupt":
        assert isinstance(caught.value, OSError)
        assert caught.value.errno == errno.ENOSPC and "_zstore/tmp/5-shard-" in str(caught.value.filename)
    assert local.list("_zstore/tmp") == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(calls[0])


def test_a_failed_replace_or_create_leaves_the_old_object_and_no_draft(
        local: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    put(local, NAME, b"old")

    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    for call, finish in (("replace", local.replace), ("link", local.create)):
        draft = local.draft([b"new"], "test")
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(OSError, match=r"c\.0\.0"):
                finish(draft, NAME)
        assert local.read(NAME) == b"old" and local.list("_zstore/tmp") == []


def test_a_durable_draft_is_synced_by_its_own_descriptor(local: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    draft = local.draft([b"x"], "test")
    assert [Path(path).parent.name for path in synced] == ["tmp"]
    local.replace(draft, NAME)
    local.draft([b"x"], "test", durable=False)
    assert len(synced) == 1
    local.sync(["vectors", "vectors", ""])
    assert synced[1:] == [f"{local.url}/vectors", local.url]


def test_new_folders_are_synced_with_every_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    LocalStorage(tmp_path / "runs" / "a.zarr").make_folders(["_zstore/commits", "vectors"])
    runs = tmp_path / "runs"
    expected = [tmp_path, runs, runs / "a.zarr", runs / "a.zarr" / "_zstore"]
    assert synced == [str(path) for path in expected]
    # Again, though nothing is new: whoever made them may not have come to their fsync.
    synced.clear()
    LocalStorage(runs / "a.zarr").make_folders(["_zstore/commits"])
    assert set(synced) == {str(path) for path in expected[1:]}


def test_a_sync_that_fails_says_so(local: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        local.sync(["absent"])

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="vectors"):
        local.sync(["vectors"])


def test_handles_close_their_descriptor(local: LocalStorage) -> None:
    put(local, NAME, b"x" * 10)
    handle = local.open(NAME)
    descriptor = handle.fileno()
    assert descriptor is not None and os.fstat(descriptor).st_size == 10
    handle.close()
    with pytest.raises(ValueError, match="closed"):
        handle.read(0, 1)
    with pytest.raises(IsADirectoryError):
        local.open("vectors")
    assert not os.get_inheritable(local.open(NAME).fileno() or 0)


def test_empty_folders_that_a_copy_lost_come_back(local: LocalStorage) -> None:
    os.rmdir(f"{local.url}/_zstore/tmp")
    os.rmdir(f"{local.url}/_zstore/live")
    put(local, NAME, b"x")
    local.share_live("_zstore/live/0").release()
    os.rmdir(f"{local.url}/_zstore/tmp")
    with local.exclusive():
        assert local.exists(NAME)
    absent = LocalStorage(local.url + "-absent")
    with pytest.raises(FileNotFoundError):
        absent.draft([b"x"], "test")
    assert absent.kind() == "nothing"


def test_kind_of_an_empty_folder_and_a_file_in_the_way(tmp_path: Path) -> None:
    assert LocalStorage(tmp_path).kind() == "empty"
    (tmp_path / "file").write_text("x")
    assert LocalStorage(tmp_path / "file").kind() == "file"
    with pytest.raises(NotADirectoryError):
        LocalStorage(tmp_path / "file").make_folders([])
    with pytest.raises(NotADirectoryError, match="is a file"):
        LocalStorage(tmp_path / "file" / "a.zarr").writable()


def test_a_folder_without_permission_is_a_permission_error() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755 if os.geteuid() == 0 else 0o555)

        def work() -> None:
            if os.geteuid() == 0:
                os.setuid(65534)
            nested = LocalStorage(f"{folder}/new/a.zarr")
            for act in (nested.writable, lambda: nested.make_folders(FOLDERS)):
                with pytest.raises(PermissionError, match=folder):
                    act()

        status = status_of(forked(work))
        os.chmod(folder, stat.S_IRWXU)
        assert status == 0


def test_a_read_only_file_system_is_a_permission_error(local: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "writev", fail)
    with pytest.raises(PermissionError, match="Read-only"):
        local.draft([b"x"], "test")


def test_a_lock_on_a_file_that_gc_removed_meanwhile_is_taken_again(
        local: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "_zstore/live/7"
    real = fcntl.flock
    operations: list[int] = []

    def removed_first(descriptor: int, operation: int) -> None:
        operations.append(operation)
        if len(operations) == 1:
            local.delete(name)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    lock = local.share_live(name)
    assert len(operations) == 2
    assert local.try_exclusive_live(name) is None
    lock.release()


# -- processes ------------------------------------------------------------------------------------------------------

HOLD = """
    lock = storage.share_live(sys.argv[2])
    print("held", flush=True)
    time.sleep(60)
"""


def test_live_locks_between_processes_end_with_sigkill(local: LocalStorage) -> None:
    name = "_zstore/live/3"
    process = start(HOLD, local.url, name)
    try:
        assert ready(process) == "held"
        mine = local.share_live(name)
        mine.release()
        assert local.try_exclusive_live(name) is None
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        alone = local.try_exclusive_live(name)
        assert alone is not None
        alone.release()
    finally:
        end(process)


def test_a_child_that_outlives_its_killed_parent_holds_nothing(local: LocalStorage) -> None:
    name = "_zstore/live/3"
    process = start("""
        lock = storage.share_live(sys.argv[2])
        door = storage.exclusive()
        door.__enter__()
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        print(child, flush=True)
        time.sleep(60)
    """, local.url, name)
    child = 0
    try:
        child = int(ready(process))
        assert local.try_exclusive_live(name) is None
        end(process)
        os.kill(child, 0)
        deadline = time.monotonic() + 10        # the child closes what it inherited as soon as it runs
        while (alone := local.try_exclusive_live(name)) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert alone is not None
        alone.release()
        with local.exclusive():
            pass
    finally:
        end(process)
        if child:
            os.kill(child, signal.SIGKILL)


def test_no_child_is_born_between_open_and_lock(local: LocalStorage) -> None:
    """Threads take and drop locks while the main thread forks: no child may inherit a descriptor of them."""
    done = threading.Event()

    def churn(number: int) -> None:
        while not done.is_set():
            local.share_live(f"_zstore/live/{number}").release()

    threads = [threading.Thread(target=churn, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()

    def clean() -> bool:
        links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
        return not any("/live/" in os.readlink(link) for link in links if os.path.lexists(link))

    statuses = [status_of(forked(clean)) for _ in range(50)]
    done.set()
    for thread in threads:
        thread.join()
    assert not any(statuses)


def test_exclusive_between_processes(local: LocalStorage) -> None:
    put(local, "count", b"0")
    program = """
        print("ready", flush=True)
        for _ in range(40):
            with storage.exclusive():
                count = int(storage.read("count"))
                storage.replace(storage.draft([b"%d" % (count + 1)], "t", durable=False), "count")
    """
    processes = [start(program, local.url) for _ in range(3)]
    try:
        for process in processes:
            assert process.wait(60) == 0
    finally:
        for process in processes:
            end(process)
    assert local.read("count") == b"120"


def test_a_forked_child_can_lock_while_a_parents_thread_is_inside(storage: Storage) -> None:
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with storage.exclusive():
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=stay)
    thread.start()
    entered.wait(30)

    def work() -> None:
        # The parent lets go only when we are at the door; a local lock is the parent's until then, a memory one ours.
        with storage.exclusive():
            pass

    child = forked(work)
    leave.set()
    thread.join()
    assert status_of(child) == 0


# -- URLs and remote ------------------------------------------------------------------------------------------------

def test_paths_and_file_urls_are_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in (tmp_path / "a.zarr", str(tmp_path / "a.zarr"), f"file://{tmp_path}/a.zarr", "a.zarr", "./b/../a.zarr"):
        storage = open_storage(url)
        assert isinstance(storage, LocalStorage) and storage.url == str(tmp_path / "a.zarr")
    with pytest.raises(ValueError, match="storage_options"):
        open_storage("a.zarr", {"anon": True})
    assert open_storage("a.zarr", {}).kind() == "nothing"


@pytest.mark.parametrize("url", ["", "  ", "file://", "a\0b", b"a", None, 7, Path])
def test_what_is_no_url_is_refused_in_one_sentence(url: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        open_storage(url)
    assert "\n" not in str(caught.value) and len(str(caught.value)) > 10


@pytest.mark.parametrize(("scheme", "package", "extra"), [
    ("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs"), ("gcs", "gcsfs", "gcs"), ("abfs", "adlfs", "azure"),
    ("az", "adlfs", "azure")])
def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, scheme: str, package: str,
                                           extra: str) -> None:
    table = importlib.import_module("fsspec.registry")
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(table._registry, scheme, raising=False)
    with pytest.raises(MissingExtra, match=package) as caught:
        open_storage(f"{scheme}://bucket/a.zarr")
    assert f'pip install "zstore[{extra}]"' in str(caught.value)


def test_other_missing_packages_and_unknown_schemes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tosfs", None)
    with pytest.raises(MissingExtra, match="tosfs"):
        open_storage("tos://bucket/a.zarr")
    with pytest.raises(ValueError, match="nosuch://"):
        open_storage("nosuch://bucket/a.zarr")
    with pytest.raises(ValueError, match="nosuch://"):
        open_storage("simplecache::nosuch://bucket/a.zarr")


def test_remote_reads_what_memory_wrote_and_refuses_to_write(tmp_path: Path) -> None:
    name = f"test-{uuid.uuid4().hex}"
    memory = prepared(MemoryStorage(f"memory://{name}"))
    put(memory, NAME, b"0123456789")
    remote = RemoteStorage(f"memory://{name}")
    assert remote.kind() == "folder" and remote.exists(NAME) and not remote.exists("vectors")
    assert remote.read(NAME) == b"0123456789"
    assert remote.list("vectors") == ["c.0.0"] and remote.folders("") == ["vectors"] and remote.list("absent") == []
    handle = remote.open(NAME)
    assert (handle.size, handle.read(2, 3), handle.read(8, 9), handle.fileno()) == (10, b"234", b"89", None)
    put(memory, NAME, b"0")
    with pytest.raises(OSError, match="changed"):
        handle.read(2, 3)
    with pytest.raises(FileNotFoundError):
        remote.open("vectors/c.9.0")
    with pytest.raises(Conflict, match="only_writer=True"):
        remote.writable()
    assert remote.list("_zstore/tmp") == []
    filesystem(f"memory://{name}")[0].rm(f"/{name}", recursive=True)
    assert remote.kind() == "nothing"


def test_a_chained_url_reads_too(tmp_path: Path) -> None:
    put(prepared(LocalStorage(tmp_path / "a.zarr")), NAME, b"xyz")
    remote = open_storage(f"simplecache::file://{tmp_path}/a.zarr")
    assert isinstance(remote, RemoteStorage) and remote.open(NAME).read(1, 2) == b"yz"


@pytest.mark.parametrize(("url", "shown"), [
    ("https://me:pa@ss@host/a.zarr?token=1#x", "https://host/a.zarr"),
    ("https://token@host/a.zarr/", "https://host/a.zarr"),
    ("s3://bucket/a@b.zarr?versionId=3", "s3://bucket/a@b.zarr"),
    ("abfs://container@account.dfs.core.windows.net/a", "abfs://container@account.dfs.core.windows.net/a"),
    ("simplecache::ftp://u:p@host/a?q::memory://b", "simplecache::ftp://host/a::memory://b"),
    ("memory://", "memory://")])
def test_printed_urls_have_no_credentials(url: str, shown: str) -> None:
    assert printable(url) == shown


def test_zarr_opens_the_same_memory_url() -> None:
    zarr = pytest.importorskip("zarr")
    url = f"memory://test-{uuid.uuid4().hex}"
    storage = MemoryStorage(url)
    document = b'{"zarr_format": 3, "node_type": "group", "attributes": {"hello": 1}}'
    storage.replace(storage.draft([document], "root"), "zarr.json")
    assert zarr.open_group(url, mode="r").attrs["hello"] == 1
    assert storage.url == url
    storage.delete("zarr.json")


def test_importing_storage_is_light() -> None:
    program = "import sys, zstore.storage; sys.exit('fsspec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
