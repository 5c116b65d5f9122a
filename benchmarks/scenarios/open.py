"""Opening a store for reading and knowing how many rows it has; and the first open of a process, with one row read."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.contender import Contender
from benchmarks.data import Data
from benchmarks.figures import Figure, Samples
from benchmarks.scenarios.checks import same

FIGURES = (Figure("open and count", "ms"), Figure("open to the first row, fresh process", "ms"))
STORE, STEPS, COLD = "plain", ("first", "again"), ()
TURNS = 20


def first(contender: Contender, data: Data, size: int) -> Samples:
    """The first open of a process, and one row; imports were made with the contender."""
    begin = time.perf_counter()
    contender.open()
    found = contender.gather([data.rows // 2])
    took = 1e3 * (time.perf_counter() - begin)
    same(found, data.at([data.rows // 2]))
    return {"open to the first row, fresh process": [took]}


def again(contender: Contender, data: Data, size: int) -> Samples:
    """Open after open in one process."""
    took = []
    for _ in range(TURNS):
        begin = time.perf_counter()
        contender.open()
        rows = contender.count()
        took.append(1e3 * (time.perf_counter() - begin))
        contender.close()
        assert rows == data.rows
    return {"open and count": took}


def limits(data: Data, folder: Path) -> dict[str, dict[str, float]]:
    """None: opening is bookkeeping."""
    return {}
