"""One commit: of one batch (256 rows), and of 50 batches (12,800 rows)."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks import limits as machine
from benchmarks.contender import Contender
from benchmarks.data import BATCH, EVERY, Data
from benchmarks.figures import Figure, Samples
from benchmarks.scenarios.checks import store_is_whole

FIGURES = (Figure("commit of 256 rows", "ms"), Figure("commit of 12,800 rows", "ms"))
STORE, STEPS, COLD = None, ("write",), ()
PAUSE_S, SMALL = 0.05, 40             # seconds before each commit; commits of one batch
DEFAULT_ROWS = (8 * EVERY + SMALL) * BATCH


def write(contender: Contender, data: Data, size: int) -> Samples:
    """Large commits first, then small ones. Before each commit the background has a moment
    to come to rest, as a training step gives it: what is timed is the commit and not the encoding before it."""
    batches, large, small = data.batches(), [], []
    first = max(0, len(batches) - SMALL) // EVERY * EVERY
    contender.create()
    for number, batch in enumerate(batches, 1):
        contender.append(*batch)
        if number > first or number % EVERY == 0:
            time.sleep(PAUSE_S)
            tick = time.perf_counter()
            contender.commit()
            (small if number > first else large).append(1e3 * (time.perf_counter() - tick))
    contender.finish()
    store_is_whole(contender, data)
    return {"commit of 256 rows": small, **({"commit of 12,800 rows": large} if large else {})}


def limits(data: Data, folder: Path) -> dict[str, dict[str, float]]:
    """msync of as many bytes of a mapped file."""
    size = BATCH * data.row_bytes
    return {"commit of 256 rows": {"msync of the same bytes": 1e3 * machine.msync(folder, size)},
            "commit of 12,800 rows": {"msync of the same bytes": 1e3 * machine.msync(folder, size * EVERY)}}
