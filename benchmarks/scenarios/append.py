"""A whole run, as fast as it goes: batches of 256 rows under string ids, made durable every 50 batches."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks import limits as machine
from benchmarks.contender import Contender
from benchmarks.data import EVERY, Data
from benchmarks.figures import Figure, Samples
from benchmarks.scenarios.checks import store_is_whole

FIGURES = (Figure("rows", "k rows/s", more_is_better=True), Figure("append call", "us", head="p99"), Figure("commit", "ms"))
STORE, STEPS, COLD = None, ("write",), ()


def write(contender: Contender, data: Data, size: int) -> Samples:
    """All rows; the clock runs from the creation of the store to its end."""
    batches, appends, commits = data.batches(), [], []
    begin = time.perf_counter()
    contender.create()
    for number, batch in enumerate(batches, 1):
        tick = time.perf_counter()
        contender.append(*batch)
        appends.append(1e6 * (time.perf_counter() - tick))
        if number % EVERY == 0:
            tick = time.perf_counter()
            contender.commit()
            commits.append(1e3 * (time.perf_counter() - tick))
    contender.finish()
    took = time.perf_counter() - begin
    store_is_whole(contender, data)
    return {"rows": [data.rows / took / 1e3], "append call": appends, "commit": commits or [1e3 * took]}


def limits(data: Data, folder: Path) -> dict[str, dict[str, float]]:
    """The disk, the memory, the codec and the checksum alone."""
    row = data.row_bytes
    return {"rows": {"write + fdatasync every 50 batches": machine.write_sync(folder, data, EVERY) / row / 1e3,
                     "memcpy, one core": machine.memcpy() / row / 1e3,
                     "blosc lz4 bitshuffle encode, one core": machine.codec(data)[0] / row / 1e3,
                     "crc32c, one core": machine.checksum() / row / 1e3}}
