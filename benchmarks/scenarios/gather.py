"""Random rows by number, as a search's re-ranking or a training set's shuffle takes them: 10,000 in one call."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from benchmarks import limits as machine
from benchmarks.contender import Contender
from benchmarks.data import Data
from benchmarks.figures import Figure, Samples
from benchmarks.scenarios.checks import same

FIGURES = (Figure("warm", "k rows/s", more_is_better=True), Figure("first touch", "k rows/s", more_is_better=True),
           Figure("cold", "k rows/s", more_is_better=True))
STORE, STEPS, COLD = "plain", ("cold", "warm"), ("cold",)
TURNS, FEWEST, MOST_S = 15, 3, 4.0


def cold(contender: Contender, data: Data, size: int) -> Samples:
    """A process that has read nothing, and the files' pages dropped: what comes, comes from the disk."""
    return {"cold": [_first(contender, data, size)]}


def warm(contender: Contender, data: Data, size: int) -> Samples:
    """The first call of a process, the files' pages in memory; then, after every row was touched once, call after call."""
    first = _first(contender, data, size)
    everything = np.random.default_rng(5).permutation(data.rows)
    begin = time.perf_counter()
    for at in range(0, data.rows, 5 * size):
        contender.gather(everything[at:at + 5 * size])
        if time.perf_counter() - begin > MOST_S:        # a system this slow keeps nothing that warmth would help
            break
    rng, rates = np.random.default_rng(6), []
    started = time.perf_counter()
    while len(rates) < FEWEST or (len(rates) < TURNS and time.perf_counter() - started < MOST_S):
        rows = rng.integers(0, data.rows, size)
        begin = time.perf_counter()
        found = contender.gather(rows)
        rates.append(size / (time.perf_counter() - begin) / 1e3)
        same(found, data.at(rows))
    return {"first touch": [first], "warm": rates}


def _first(contender: Contender, data: Data, size: int) -> float:
    contender.open()
    rows = np.random.default_rng(4).integers(0, data.rows, size)
    begin = time.perf_counter()
    found = contender.gather(rows)
    rate = size / (time.perf_counter() - begin) / 1e3
    same(found, data.at(rows))
    return rate


def limits(data: Data, folder: Path) -> dict[str, dict[str, float]]:
    """np.take out of memory that was touched before, into memory that was; and the decoder at one chunk of 16 rows a row."""
    block = np.ascontiguousarray(data.block[:data.count])
    rows = np.random.default_rng(0).integers(0, len(block), 10_000)
    out = np.empty((10_000, data.dim), block.dtype)
    took = machine.best(lambda: np.take(block.view(np.uint16) if block.dtype.itemsize == 2 else block, rows, axis=0,
                                        out=out.view(np.uint16) if out.dtype.itemsize == 2 else out, mode="clip"))
    decode = machine.codec(data)[1]
    return {"warm": {"np.take, one core, within one cache's reach": 10_000 / took / 1e3},
            "first touch": {"blosc decode of a chunk of 16 rows for each row, one core": decode / (16 * data.row_bytes) / 1e3}}
