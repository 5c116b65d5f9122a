"""Reserved ranges, mapped files, shared pages."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zstore.storage import limits, pages
from zstore.storage.pages import HUGE, PAGE, Range, available_memory, shared

# Forking beside threads is the very thing under test; Python 3.12 and later warn of it.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def file_of(path: Path, fill: int, count: int) -> int:
    path.write_bytes(bytes([fill]) * count)
    return os.open(path, os.O_RDONLY)


def mapped(address: int) -> bool:
    with open("/proc/self/maps") as lines:
        for line in lines:
            low, high = (int(text, 16) for text in line.split()[0].split("-"))
            if low <= address < high:
                return True
    return False


def address_of(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_two_files_side_by_side_read_as_one_array(tmp_path: Path) -> None:
    place = Range(4 * PAGE)
    for number in (0, 1):
        descriptor = file_of(tmp_path / str(number), number + 1, 3 * PAGE)
        place.map_file(descriptor, PAGE, number * 2 * PAGE, 2 * PAGE)
        os.close(descriptor)
    expected = np.repeat(np.array([1, 2], np.uint8), 2 * PAGE)
    assert np.array_equal(place.array(), expected)
    assert place.array().shape == (place.nbytes,)


def test_anonymous_pages_are_filled_behind_a_file(tmp_path: Path) -> None:
    place = Range(2 * PAGE + 10)
    descriptor = file_of(tmp_path / "a", 7, PAGE)
    place.map_file(descriptor, 0, 0, PAGE)
    os.close(descriptor)
    place.map_anonymous(PAGE, PAGE + 10)
    whole = place.array()
    assert not whole[PAGE:].any()
    place.writable(PAGE, PAGE + 10)[:] = 9
    assert (whole[:PAGE] == 7).all() and (whole[PAGE:] == 9).all()


@linux
def test_a_place_is_brought_whole_and_at_the_grain_of_huge_pages(tmp_path: Path) -> None:
    descriptor = file_of(tmp_path / "a", 7, 64 * PAGE)
    span = Range(3 * HUGE)
    array = span.array()
    address = array.__array_interface__["data"][0]
    assert address % HUGE == 0
    span.map_file(descriptor, 0, HUGE, 64 * PAGE)
    os.close(descriptor)
    before = resident_kb(address + HUGE)
    span.huge(HUGE, 64 * PAGE)
    span.bring(HUGE, 64 * PAGE)
    assert (before, resident_kb(address + HUGE)) == (0, 64 * PAGE // 1024)
    assert (array[HUGE:HUGE + 64 * PAGE] == 7).all()


def resident_kb(address: int) -> int:
    lines = Path("/proc/self/smaps").read_text().splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith(f"{address:x}-"))
    return int(next(line for line in lines[first:] if line.startswith("Rss:")).split()[1])


def test_arrays_are_read_only_for_ever() -> None:
    place = Range(PAGE)
    place.map_anonymous(0, PAGE)
    whole = place.array()
    assert not whole.flags.writeable
    with pytest.raises(ValueError):
        whole[0] = 1
    with pytest.raises(ValueError):
        whole.flags.writeable = True


@linux
def test_arrays_outlive_the_range_and_the_pages_go_with_the_last_one(tmp_path: Path) -> None:
    place = Range(64 * PAGE)
    descriptor = file_of(tmp_path / "a", 5, PAGE)
    place.map_file(descriptor, 0, PAGE, PAGE)
    os.close(descriptor)
    whole = place.array()
    address = address_of(whole)
    view = whole[PAGE:2 * PAGE].view(np.float32).reshape(2, -1)
    del place, whole
    gc.collect()
    assert mapped(address) and (view.view(np.uint8) == 5).all()
    del view
    gc.collect()
    assert not mapped(address)


@linux
def test_ranges_leave_no_mappings_behind(tmp_path: Path) -> None:
    def count() -> int:
        gc.collect()
        return len(Path("/proc/self/maps").read_text().splitlines())

    descriptor = file_of(tmp_path / "a", 5, PAGE)
    before = count()
    ranges = [Range(9 * PAGE) for _ in range(50)]
    for place in ranges:
        for at in (1, 3, 5, 7):
            place.map_file(descriptor, 0, at * PAGE, PAGE)
    assert count() >= before + 200
    ranges.clear()
    del place
    assert count() <= before + 5
    os.close(descriptor)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    descriptor = file_of(tmp_path / "a", 5, PAGE + 100)
    place = Range(4 * PAGE)
    for offset, at, length in [(0, 1, PAGE), (1, 0, PAGE), (0, 4 * PAGE, 1), (0, 0, PAGE + 101), (PAGE, 0, 101),
                               (-PAGE, 0, 1), (0, -PAGE, 1), (0, 0, 0)]:
        with pytest.raises(ValueError):
            place.map_file(descriptor, offset, at, length)
    place.map_file(descriptor, 0, 0, PAGE + 100)
    assert (place.array()[:PAGE + 100] == 5).all()
    with pytest.raises(ValueError):
        place.writable(3 * PAGE, PAGE + 1)
    with pytest.raises(ValueError):
        Range(0)
    with pytest.raises(OSError):
        Range(1 << 60)
    os.close(descriptor)


@linux
def test_a_refused_mapping_keeps_the_addresses_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Range(4 * PAGE)
    address = address_of(place.array())
    real = pages._map

    def refuse_late(*arguments: int) -> int:
        if arguments[3] & 0x10:
            pages._unmap(arguments[0], arguments[1])
            raise OSError(19, "No such device")
        return real(*arguments)

    monkeypatch.setattr(pages, "_map", refuse_late)
    with pytest.raises(OSError):
        place.map_anonymous(PAGE, 2 * PAGE)
    assert all(mapped(address + at * PAGE) for at in range(4))

    monkeypatch.undo()
    write_only = os.open(tmp_path / "w", os.O_WRONLY | os.O_CREAT)
    os.truncate(write_only, PAGE)
    with pytest.raises(PermissionError):
        place.map_file(write_only, 0, PAGE, PAGE)
    os.close(write_only)
    assert mapped(address + PAGE)
    place.map_anonymous(PAGE, 2 * PAGE)
    assert not place.array()[PAGE:3 * PAGE].any()


def test_where_the_platform_has_no_mapping_it_is_an_oserror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_mmap", None)
    with pytest.raises(OSError, match="no page mapping"):
        Range(PAGE)


def test_shared_memory_is_seen_across_a_fork() -> None:
    memory = shared(3 * PAGE + 1)
    assert memory.shape == (3 * PAGE + 1,) and not memory.any() and memory.flags.writeable
    child = os.fork()
    if child == 0:
        try:
            memory[-1] = 42
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert memory[-1] == 42
    assert shared(0).shape == (0,)


def test_a_thread_may_read_an_array_at_interpreter_exit() -> None:
    program = (
        "import atexit, threading, time\natexit.register(time.sleep, 0.2)\n"
        "from zstore.storage.pages import PAGE, Range\n"
        "place = Range(PAGE); place.map_anonymous(0, PAGE); whole = place.array()\n"
        "def spin():\n    while True: whole.sum()\n"
        "threading.Thread(target=spin, daemon=True).start()\n")
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def test_available_memory_obeys_every_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = available_memory()
    assert 0 < free < 1 << 50

    group = tmp_path / "jobs" / "one"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("5000\n")
    (group.parent / "memory.max").write_text("9000\n")
    (group.parent / "memory.current").write_text("6000\n")
    (group.parent / "memory.stat").write_text("anon 1\ninactive_file 500\n")
    assert list(limits._left(tmp_path, "/jobs/one", limits._VERSION_2)) == [3500]

    program = "from zstore.storage.pages import available_memory; print(available_memory())"
    limit = 4 << 30
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60,
                           preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    assert 0 <= int(shown.stdout) < limit
