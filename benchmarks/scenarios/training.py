"""What the training thread pays: a step of about ten milliseconds, then one batch appended; with and without, in turn."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np

from benchmarks import limits as machine
from benchmarks.contender import Contender
from benchmarks.data import EVERY, Data
from benchmarks.figures import Figure, Samples

FIGURES = (Figure("append call", "us", head="p99"), Figure("step time, share added", "%"))
STORE, STEPS, COLD = None, ("train",), ()
DEFAULT_ROWS = 60_000
STEP_S, TURN, SETTLE_S = 0.010, 25, 0.2    # seconds of work in a step; steps of a turn, with and without append


def train(contender: Contender, data: Data, size: int) -> Samples:
    """Steps of matrix products, which let other threads run as a model's do. A commit ends every 50th batch; its time is the
    commit's own figure and not part of a step. What it leaves to do in the background is."""
    work = _calibrated()
    batches, appends, added = data.batches(), [], []
    contender.create()
    number = 0
    while number < len(batches):
        with_s, without_s = [], []
        for _ in range(min(TURN, len(batches) - number)):
            begin = time.perf_counter()
            work()
            tick = time.perf_counter()
            contender.append(*batches[number])
            end = time.perf_counter()
            appends.append(1e6 * (end - tick))
            with_s.append(end - begin)
            number += 1
            if number % EVERY == 0:
                contender.commit()
        time.sleep(SETTLE_S)           # the background's work is the recorded turn's, and no part of the other
        for _ in range(TURN):
            begin = time.perf_counter()
            work()
            without_s.append(time.perf_counter() - begin)
        added.append(100 * (statistics.mean(with_s) / statistics.mean(without_s) - 1))
    contender.finish()
    return {"append call": appends, "step time, share added": added}


def _calibrated() -> object:
    left = np.random.default_rng(0).standard_normal((256, 512), np.float32)
    right, out = left.T.copy(), np.empty((256, 256), np.float32)
    begin = time.perf_counter()
    for _ in range(50):
        np.matmul(left, right, out=out)
    times = max(1, round(STEP_S / ((time.perf_counter() - begin) / 50)))

    def work() -> None:
        for _ in range(times):
            np.matmul(left, right, out=out)
    return work


def limits(data: Data, folder: Path) -> dict[str, dict[str, float]]:
    """A copy of the batch is the least that a store which keeps nothing of the caller's can cost."""
    return {"append call": {"memcpy of a batch": 1e6 * 256 * data.row_bytes / machine.memcpy()}}
