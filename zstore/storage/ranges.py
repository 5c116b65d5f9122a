"""Many ranges of one object in few requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

GAP_BYTES = 256 << 10       # so many that nobody wants are cheaper than another request, which costs a client in Python 1 ms
LEAST_BYTES, MOST_BYTES = 1 << 20, 8 << 20      # of a request, where it could be split
SPREAD = 16                 # a connection is slower than the network: what is much comes over so many at once
THREADS = 32


class Piece(NamedTuple):
    """One request, [start, stop), and the wanted ranges that lie in it: (number, start, stop)."""

    start: int
    stop: int
    members: list[tuple[int, int, int]]


def share(total: int) -> int:
    """How large a request may become where so many bytes are wanted in all."""
    return min(max(total // SPREAD, LEAST_BYTES), MOST_BYTES)


def merged(wanted: Sequence[tuple[int, int, int]], most: int = MOST_BYTES) -> list[Piece]:
    """Requests that cover the wanted ranges (number, start, stop), none of them empty, in any order; neighbours share one,
    unless it would become larger than ``most``."""
    pieces: list[Piece] = []
    for number, start, stop in sorted(wanted, key=lambda one: one[1:]):
        last = pieces[-1] if pieces else None
        if last is not None and start <= last.stop + GAP_BYTES and max(stop, last.stop) - last.start <= most:
            last.members.append((number, start, stop))
            pieces[-1] = last._replace(stop=max(stop, last.stop))
        else:
            pieces.append(Piece(start, stop, [(number, start, stop)]))
    return pieces


def at_once(calls: Sequence[Callable[[], object]]) -> None:
    """Run them on up to 32 threads, the caller's among them; the first error is raised when all of them have ended.

    The threads are made for it: they survive no fork, and a pool refuses work once the interpreter ends."""
    left = iter(calls)
    lock = threading.Lock()
    failed: list[BaseException] = []

    def work() -> None:
        while not failed:
            with lock:
                call = next(left, None)
            if call is None:
                return
            try:
                call()
            except BaseException as error:
                failed.append(error)

    threads = []
    for _ in range(min(THREADS, len(calls)) - 1):
        thread = threading.Thread(target=work, name="zstore-fetch", daemon=True)
        try:
            thread.start()
        except RuntimeError:            # the interpreter is exiting
            break
        threads.append(thread)
    work()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
