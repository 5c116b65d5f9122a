"""A writer is killed in the midst of a batch; the next process goes on from the last commit."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from benchmarks.contender import Contender
from benchmarks.data import BATCH, EVERY, Data
from benchmarks.figures import Figure, Samples
from benchmarks.scenarios.checks import store_is_whole

FIGURES = (Figure("ready to append", "ms"), Figure("first commit after it", "ms"))
STORE, STEPS, COLD = None, ("killed", "resumed"), ()
DEFAULT_ROWS = 100_000


def killed(contender: Contender, data: Data, size: int) -> Samples:
    """Writes, commits, writes on and is killed."""
    commits = _committed(data)
    contender.create()
    _append(contender, data, 0, commits, EVERY)
    contender.commit()
    for batch in data.batches(commits, min(data.rows, commits + 7 * BATCH)):
        contender.append(*batch)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def resumed(contender: Contender, data: Data, size: int) -> Samples:
    """Another process: open behind the last commit, write the rest; every row must be there once."""
    commits = _committed(data)
    begin = time.perf_counter()
    contender.resume(commits)
    ready = 1e3 * (time.perf_counter() - begin)
    begin = time.perf_counter()
    _append(contender, data, commits, min(data.rows, commits + BATCH), 0)
    contender.commit()
    first = 1e3 * (time.perf_counter() - begin)
    _append(contender, data, min(data.rows, commits + BATCH), data.rows, EVERY)
    contender.finish()
    store_is_whole(contender, data)
    return {"ready to append": [ready], "first commit after it": [first]}


def _committed(data: Data) -> int:
    return data.rows // 2 // BATCH * BATCH


def _append(contender: Contender, data: Data, start: int, stop: int, every: int) -> None:
    for number, batch in enumerate(data.batches(start, stop), 1):
        contender.append(*batch)
        if every and number % every == 0:
            contender.commit()


def limits(data: Data, folder: Path) -> dict[str, dict[str, float]]:
    """None: going on is bookkeeping."""
    return {}
