"""Every system call of a store's life on a local disk fails once, or from then on: one error that names something, then
the same writer goes on; no committed row is lost, none appears that was not appended, and `verify` finds nothing."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import cache

import pytest
from fault_life import Life

import zstore
from zstore.commits import publish
from zstore.errors import InDoubt
from zstore.testing.faults import CHANGING, GROWING, LOST, SHORT, TORN, Fault, FaultyCalls

E = errno
# What may go wrong with each call. The everyday suite strikes a few of the calls of each line, `-m slow` each of them.
KINDS: dict[str, list[int | str]] = {
    "make": [E.ENOSPC, E.EDQUOT, E.EROFS, E.EMFILE], "open": [E.EIO, E.EMFILE], "write": [E.EIO, E.ENOSPC, SHORT, TORN, LOST],
    "read": [E.EIO, SHORT], "sync": [E.EIO, E.EDQUOT], "sync folder": [E.EIO], "close": [E.EIO],
    "rename": [E.EIO, E.ENOSPC, E.EROFS, LOST], "link": [E.EIO, E.ENOSPC, LOST], "unlink": [E.EIO],
    "mkdir": [E.ENOSPC, E.EROFS], "stat": [E.EIO], "list": [E.EIO], "lock": [E.ENOLCK, E.EINTR],
}
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
CODECS = ["raw", "lossless"]
FULL, READ_ONLY, BROKEN, BLIND = "full", "read-only", "broken", "done but not to be seen"
LASTING: dict[str, tuple[frozenset[str], int | str]] = {
    FULL: (GROWING, E.ENOSPC), READ_ONLY: (CHANGING, E.EROFS), BROKEN: (GROWING | {"read", "open"}, E.EIO),
    BLIND: (frozenset({"link", "open"}), LOST),
}


@pytest.fixture
def folder() -> Iterator[str]:
    """Where lives are led: in memory, where that is possible, for nothing here asks what a real disk keeps."""
    path = tempfile.mkdtemp(dir=MEMORY)
    yield path
    shutil.rmtree(path)


@cache
def counts(codec: str) -> dict[str, int]:
    """How many calls of each kind a life makes before its last visit, when nothing fails any more."""
    folder = tempfile.mkdtemp(dir=MEMORY)
    calls, told = FaultyCalls(), dict[str, int]()
    try:
        with calls.installed():
            Life(f"{folder}/run.zarr", codec, heal=lambda: told.update(calls.counts)).live()
    finally:
        shutil.rmtree(folder)
    return told


@pytest.fixture(autouse=True)
def soon_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "IN_DOUBT_S", 0.2)


def strike(folder: str, fault: Fault, codec: str) -> FaultyCalls:
    """A life with this fault, from beginning to end, and what must hold then."""
    calls = FaultyCalls(fault)
    life = Life(f"{folder}/run.zarr", codec, heal=calls.heal if fault.lasts else lambda: None)
    try:
        with calls.installed():
            life.live()
        life.check()
        # After a failed fsync the kernel may call lost pages clean: such a file must never get a name.
        assert calls.names_of_unsure_files() == 0
        if not fault.lasts:
            assert len(life.errors) <= 1, f"one fault, {len(life.errors)} errors: {life.errors}"
    except BaseException as error:
        error.add_note(f"{fault}, codec {codec}")
        raise
    finally:
        shutil.rmtree(f"{folder}/run.zarr", ignore_errors=True)
    return calls


def spread(total: int, few: int, shift: float = 0.0) -> list[int]:
    """``few`` of 0 to ``total`` - 1, evenly, the same each time; ``shift`` (0 to 1) moves them on."""
    return sorted({int((place + shift) * total / few) for place in range(few)}) if total else []


@pytest.mark.parametrize("call", KINDS)
def test_one_call_fails(call: str, folder: str) -> None:
    for how in KINDS[call]:
        for nth in spread(counts("lossless")[call], 2, KINDS[call].index(how) / len(KINDS[call])):
            assert strike(folder, Fault.one(call, nth, how), "lossless").struck == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("call", "how"), [(call, how) for call, hows in KINDS.items() for how in hows])
def test_every_call_fails(call: str, how: int | str, folder: str) -> None:
    for nth in range(min(counts(codec)[call] for codec in CODECS)):
        assert strike(folder, Fault.one(call, nth, how), CODECS[nth % 2]).struck == 1


@pytest.mark.parametrize("kind", LASTING)
@pytest.mark.parametrize("codec", CODECS)
def test_all_calls_fail_from_one_on(kind: str, codec: str, folder: str) -> None:
    calls, how = LASTING[kind]
    for nth in spread(sum(counts(codec).get(call, 0) for call in calls), 5):
        assert strike(folder, Fault(calls, nth, how, lasts=True), codec).struck


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", LASTING)
@pytest.mark.parametrize("codec", CODECS)
def test_all_calls_fail_from_each_third_on(kind: str, codec: str, folder: str) -> None:
    calls, how = LASTING[kind]
    for nth in range(0, sum(counts(codec).get(call, 0) for call in calls), 3):
        assert strike(folder, Fault(calls, nth, how, lasts=True), codec).struck


@pytest.fixture
def shower() -> Iterator[list[int]]:
    """A signal every other millisecond to every thread: each call that waits is interrupted, and begun again."""
    caught: list[int] = []
    stop = threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda number, frame: caught.append(number))
    # By the kernel's number: pthread_kill of a thread that has just ended reads freed memory.
    kill = ctypes.CDLL(None).tgkill

    def shoot() -> None:
        while not stop.wait(0.002):
            for thread in threading.enumerate():
                if thread.native_id is not None and thread is not threading.current_thread():
                    kill(os.getpid(), thread.native_id, signal.SIGUSR1)     # fails for one that ended meanwhile

    shooter = threading.Thread(target=shoot)
    shooter.start()
    yield caught
    stop.set()
    shooter.join()
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("codec", CODECS)
def test_signals_interrupt_calls_and_nothing_else(codec: str, url: str, shower: list[int]) -> None:
    life = Life(url, codec)
    life.live()
    life.check()
    assert life.errors == [] and shower


@pytest.mark.filterwarnings("ignore:.*:UserWarning")     # of a projection that failed, and rows that supersede
def test_an_opening_that_fails_lets_go(folder: str) -> None:
    """Whichever call of an opening fails, and at the first row: the store is not kept locked, and no thread stays."""
    url = f"{folder}/run.zarr"
    with zstore.Writer(url, rows_per_shard=32) as writer:
        writer.append(["a"], [[1.0]])
    threads = threading.active_count()
    for call, hows in KINDS.items():
        for nth in range(100):
            calls = FaultyCalls(Fault.one(call, nth, hows[0]))
            try:
                with calls.installed():
                    writer = zstore.Writer(url, commit_every_s=None)
                    writer.append(["b"], [[2.0]])
            except OSError as error:
                assert folder in str(error) and calls.struck, f"{call} {nth}"
                if writer._closed:          # the one before: none was made
                    zstore.Writer(url).close()              # Conflict, were something of it still alive
                else:                       # it goes on, and lacks no block to do so
                    writer.append([f"c{n}" for n in range(70)], [[float(n)] for n in range(70)])
            writer.close()
            if not calls.struck:
                break
        else:
            pytest.fail(f"an opening makes more than 100 calls of {call}")
    deadline = 100
    while threading.active_count() > threads and (deadline := deadline - 1):
        time.sleep(0.05)                # told to end, and about to
    assert threading.active_count() <= threads
    assert zstore.verify(url) == []


@pytest.mark.filterwarnings("ignore:.*:UserWarning")     # of a projection that failed
def test_a_column_that_may_be_there(folder: str) -> None:
    """The record that adds a field lands, and the disk then says nothing more. A writer that went on without the column would
    commit rows that lack it."""
    ended = 0
    for nth in range(100):
        url = f"{folder}/{nth}.zarr"
        calls = FaultyCalls(Fault(frozenset({"link", "open"}), nth, LOST, lasts=True))
        writer = zstore.Writer(url, rows_per_shard=32, commit_every_s=None)
        writer.append(["a", "b"], [[1.0], [2.0]])
        writer.commit()
        try:
            with calls.installed():
                writer.add_field("loss", [0.5, 0.25])
        except OSError as error:
            calls.heal()
            if isinstance(error, InDoubt):
                ended += 1
                with pytest.raises(InDoubt):
                    writer.append(["c"], [[3.0]])
                    writer.commit()
            else:
                writer.append(["c"], [[3.0]])
                writer.commit()
        with contextlib.suppress(InDoubt):
            writer.close()
        zstore.Writer(url).close()
        assert zstore.verify(url) == []
        with zstore.Reader(url) as reader:
            assert reader.ids.tolist()[:2] == ["a", "b"] and len(reader.vectors) == len(reader)
        if not calls.struck:
            break
    assert ended
