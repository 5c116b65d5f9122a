"""One small pool of threads for copying and decoding, made when first needed and again in a forked child."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

_pool: ThreadPoolExecutor | None = None
_lock = threading.Lock()
_in_pool = threading.local()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(work: Callable[[int, int], None], count: int, least: int) -> None:
    """Call ``work(start, stop)`` over ``[0, count)`` in as many parts as there are cores, none smaller than ``least``.

    The calling thread does the first part itself. Raises what the parts raise, once all of them have ended.
    """
    parts = min(cores(), count // max(least, 1))
    if parts <= 1 or getattr(_in_pool, "yes", False):       # a pool thread that waits for its own pool waits for ever
        work(0, count)
        return
    bounds = [count * part // parts for part in range(parts + 1)]
    try:
        pool = _the_pool()
        rest = [pool.submit(work, low, high) for low, high in pairwise(bounds[1:])]
    except RuntimeError:                                    # the interpreter is shutting down
        work(0, count)
        return
    try:
        work(0, bounds[1])
    finally:
        # The parts write into the caller's memory: none may outlive the call, whatever happened here.
        failed = _errors(rest)
    if failed is not None:
        raise failed


def _errors(futures: list[Future[None]]) -> BaseException | None:
    found = [error for error in (future.exception() for future in futures) if error is not None]
    return found[0] if found else None


def _the_pool() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max(cores() - 1, 1), "zstore-read", initializer=_mark)
        return _pool


def _mark() -> None:
    _in_pool.yes = True


def _in_child() -> None:
    # The parent's threads do not exist here, and one of them may have held the lock.
    global _pool, _lock, _in_pool
    _pool, _lock, _in_pool = None, threading.Lock(), threading.local()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
