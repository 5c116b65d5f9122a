"""All rows once, in order, every byte read: the blocks that a system gives are folded into one word by exclusive or."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks import limits as machine
from benchmarks.contender import Contender
from benchmarks.data import Data, fold
from benchmarks.figures import Figure, Samples

FIGURES = (Figure("first touch", "GB/s", more_is_better=True), Figure("again", "GB/s", more_is_better=True),
           Figure("cold", "GB/s", more_is_better=True))
STORE, STEPS, COLD = "plain", ("cold", "warm"), ("cold",)
TURNS = 3


def cold(contender: Contender, data: Data, size: int) -> Samples:
    """A fresh process, the files' pages dropped."""
    contender.open()
    return {"cold": [_scan(contender, data)]}


def warm(contender: Contender, data: Data, size: int) -> Samples:
    """A fresh process with the files' pages in memory; then the same process again."""
    contender.open()
    first = _scan(contender, data)
    return {"first touch": [first], "again": [_scan(contender, data) for _ in range(TURNS)]}


def _scan(contender: Contender, data: Data) -> float:
    """GB/s of the rows as they were given, not of the bytes on disk."""
    begin, found, rows = time.perf_counter(), 0, 0
    for block in contender.scan():
        found ^= fold(block)
        rows += len(block)
    took = time.perf_counter() - begin
    assert rows == data.rows and found == data.fold(), f"{rows:,} rows, of other values than were written"
    return data.nbytes / took / 1e9


def limits(data: Data, folder: Path) -> dict[str, dict[str, float]]:
    """The fold alone, the decoder alone, the disk alone."""
    decode = machine.codec(data)[1] / 1e9
    return {"again": {"the fold alone, one core": machine.bandwidth() / 1e9},
            "first touch": {"blosc decode, one core": decode},
            "cold": {"reading a file": machine.read_file(folder) / 1e9}}
