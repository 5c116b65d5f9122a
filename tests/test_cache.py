"""The cache of decoded chunks: bounded, each chunk decoded once that is asked for again, never a torn row."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from zstore._typing import Array, Int64s
from zstore.arena import _BUSY, _USED, SCATTERED, Decode
from zstore.cache import LEAST, PIECE, Arena, Cache

ROWS, DIM = 8, 16
CHUNK_BYTES = ROWS * DIM * 8


def decode(chunk: int, out: Array) -> None:
    """Every number of a row is its address, so that a torn or wrong row shows."""
    first = chunk * ROWS
    out.view(np.int64).reshape(ROWS, DIM)[:] = np.arange(first, first + ROWS)[:, None]


def each(work: Callable[[int, Array], None]) -> Decode:
    def many(chunks: Int64s, out: Array, places: Int64s) -> None:
        for chunk, at in zip(chunks.tolist(), places.tolist(), strict=True):
            work(chunk, out[at:at + CHUNK_BYTES])
    return many


def arena(chunks: int, limit: int | None = None, work: Callable[[int, Array], None] = decode) -> tuple[Cache, Arena]:
    cache = Cache(chunks * CHUNK_BYTES if limit is None else limit)
    return cache, cache.arena(ROWS, (DIM,), np.dtype(np.int64), each(work), lambda chunks: {})


def take(held: Arena, addresses: Array) -> Array:
    out = np.empty((len(addresses), DIM), np.int64)
    held.take(addresses // ROWS, addresses % ROWS, out)
    return out


def sound(held: Arena, addresses: Array) -> bool:
    return bool((take(held, addresses) == addresses[:, None]).all())


def in_children(count: int, work: Callable[[int], bool]) -> None:
    """Run in forked children, and expect True from each."""
    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if work(number) else 2
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * count


def test_warm_and_cold_rows_in_one_gather() -> None:
    _, held = arena(1000)
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert sound(held, rng.integers(0, 400 * ROWS, 300))
    assert held.decoded <= 2 * 400 and held.hits > 0         # once past the arena, once for it
    assert held.one(0, 3) is not None or held.used < 400


def test_no_eviction_where_all_fits() -> None:
    cache, held = arena(100)
    everything = np.arange(100 * ROWS)
    assert sound(held, everything) and sound(held, everything[::-1].copy())
    assert held.decoded == 100 and cache.nbytes == 100 * CHUNK_BYTES


@pytest.mark.parametrize("chunks", [0, 1, LEAST, 20, 200])
def test_bounded(chunks: int) -> None:
    cache, held = arena(chunks)
    rng = np.random.default_rng(1)
    for _ in range(30):
        assert sound(held, rng.integers(0, 3000 * ROWS, 500))
        assert cache.nbytes <= cache.limit + 64 * CHUNK_BYTES


def test_what_a_scattered_gather_touches_is_kept_the_second_time() -> None:
    cache, held = arena(1000)
    scattered = np.random.default_rng(0).permutation(2 * SCATTERED) * ROWS + 3
    assert sound(held, scattered) and held.used == cache.nbytes == 0 and held.decoded == 2 * SCATTERED
    assert sound(held, scattered) and held.used == 2 * SCATTERED and held.decoded == 4 * SCATTERED
    assert sound(held, scattered) and held.decoded == 4 * SCATTERED and held.hits == 2 * SCATTERED
    few = np.arange(500, 500 + SCATTERED - 1) * ROWS
    assert sound(held, few) and held.used == 3 * SCATTERED - 1                      # too few to matter
    assert sound(held, np.arange(600 * ROWS, 800 * ROWS)) and held.used == 3 * SCATTERED + 199      # not scattered


def test_a_scattered_gather_of_kept_new_and_private_chunks() -> None:
    cache = Cache(1 << 20)
    own = np.full((ROWS, DIM), -5)
    held = cache.arena(ROWS, (DIM,), np.dtype(np.int64), each(decode), lambda chunks: {99: own} if 99 in chunks else {})
    assert sound(held, np.arange(10 * ROWS)) and held.used == 10
    rows = np.random.default_rng(0).permutation(2 * SCATTERED) * ROWS + 1
    for kept in (10, 2 * SCATTERED - 1):
        found = take(held, rows)
        assert (found == np.where(rows // ROWS == 99, -5, rows)[:, None]).all() and held.used == kept


def test_two_arenas_share_one_limit() -> None:
    cache, first = arena(100)
    assert sound(first, np.arange(100 * ROWS))
    second = cache.arena(ROWS, (DIM,), np.dtype(np.int64), each(decode), lambda chunks: {})
    for _ in range(3):
        assert sound(second, np.arange(40 * ROWS))
        assert cache.nbytes <= cache.limit + PIECE * CHUNK_BYTES
    assert second.decoded == 40 and first.used <= 60      # the idle one made room
    assert sound(first, np.arange(100 * ROWS))
    del first
    assert cache.nbytes == second.used * CHUNK_BYTES


def test_private_chunks_stay_out() -> None:
    cache = Cache(1 << 20)
    own = np.full((ROWS, DIM), -5)
    held = cache.arena(ROWS, (DIM,), np.dtype(np.int64), each(decode),
                       lambda chunks: {3: own} if 3 in chunks else {})
    found = take(held, np.arange(5 * ROWS))
    assert (found[24:32] == -5).all() and (found[:24] == np.arange(24)[:, None]).all() and found[32, 0] == 32
    assert held.decoded == 4 and held.one(3, 0) is None


def test_once_among_threads() -> None:
    _, held = arena(1000)
    results: list[bool] = []
    everything = np.arange(300 * ROWS)
    threads = [threading.Thread(target=lambda: results.append(sound(held, everything))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 6 and held.decoded == 300


def test_once_among_forked_children() -> None:
    _, held = arena(1000)
    assert sound(held, np.arange(50 * ROWS))
    rng = np.random.default_rng(3)
    orders = [rng.permutation(300 * ROWS) for _ in range(3)]
    in_children(3, lambda number: sound(held, orders[number]))
    assert held.decoded == 300
    assert sound(held, np.arange(300 * ROWS)) and held.decoded == 300


def test_no_torn_rows_while_two_processes_evict() -> None:
    cache, held = arena(70)

    def work(number: int) -> bool:
        rng = np.random.default_rng(number)
        stop = time.monotonic() + 1.0
        while time.monotonic() < stop:
            if not sound(held, rng.integers(0, 200 * ROWS, 200)):
                return False
            address = int(rng.integers(0, 200 * ROWS))
            row = held.one(address // ROWS, address % ROWS)
            if row is not None and not (row == address).all():
                return False
        return True

    in_children(2, work)
    assert cache.nbytes <= cache.limit + 64 * CHUNK_BYTES
    assert sound(held, np.arange(200 * ROWS))


def test_eviction_ends_while_readers_touch_everything() -> None:
    """Two passes of the hand may find every slot touched again; a gather must not fail for that."""
    _, held = arena(70)
    assert sound(held, np.arange(70 * ROWS))
    assert sound(held, np.arange(70 * ROWS, 71 * ROWS))         # the arena is full from here on

    class AlwaysTouched(np.ndarray[tuple[int], np.dtype[np.uint8]]):
        def __setitem__(self, key: object, value: object) -> None:
            pass

    held._touched = np.ones(70, np.uint8).view(AlwaysTouched)
    assert sound(held, np.arange(100 * ROWS, 164 * ROWS))


def test_a_killed_filler_leaves_the_cache_usable() -> None:
    def slow(chunk: int, out: Array) -> None:
        if os.getpid() != parent:
            out[:] = 77
            os.write(writer, b"x")
            time.sleep(60)
        decode(chunk, out)

    parent = os.getpid()
    reader, writer = os.pipe()
    _, held = arena(100, work=slow)
    child = os.fork()
    if child == 0:
        take(held, np.arange(20 * ROWS))
        os._exit(0)
    os.read(reader, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert sound(held, np.arange(100 * ROWS)) and held.used == 100
    os.close(reader)
    os.close(writer)


def test_a_filler_killed_between_two_counts() -> None:
    cache, held = arena(100)
    assert sound(held, np.arange(30 * ROWS))
    held._counters[_BUSY] = 1          # it died after the stamps, before or after the count
    held._counters[_USED] += 7
    assert sound(held, np.arange(40 * ROWS)) and held.used == 40 and cache.nbytes == 40 * CHUNK_BYTES


def test_a_failing_decode_is_raised_and_forgotten() -> None:
    broken = {5}

    def fail(chunk: int, out: Array) -> None:
        if chunk in broken:
            raise OSError("chunk 5")
        decode(chunk, out)

    cache, held = arena(100, work=fail)
    with pytest.raises(OSError, match="chunk 5"):
        take(held, np.arange(20 * ROWS))
    broken.clear()
    assert sound(held, np.arange(20 * ROWS)) and cache.nbytes == 20 * CHUNK_BYTES


def test_more_chunks_than_foreseen() -> None:
    _, held = arena(100)
    far = np.array([5, 70_000 * ROWS + 3, 900_000 * ROWS + 1])
    assert sound(held, far) and sound(held, far) and held.decoded == 3
