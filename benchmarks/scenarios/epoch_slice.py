"""A whole epoch as one matrix; from a run that went through, and from one that was preempted five times within it."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks import limits as machine
from benchmarks.contender import Contender
from benchmarks.data import EPOCHS, EVERY, Data, fold
from benchmarks.figures import Figure, Samples
from benchmarks.scenarios.checks import same

FIGURES = (Figure("epoch", "ms"), Figure("epoch, preempted five times", "ms"))
STORE, STEPS, COLD = None, ("write", "read", "rewrite", "reread"), ()
PLACES = {"rewrite": "preempted", "reread": "preempted"}       # steps with a store of their own
TURNS, PREEMPTIONS, EPOCH = 7, 5, EPOCHS // 2
DEFAULT_ROWS = 100_000


def write(contender: Contender, data: Data, size: int) -> Samples:
    """The run that went through."""
    contender.create()
    _append(contender, data, 0, data.rows)
    contender.finish()
    return {}


def rewrite(contender: Contender, data: Data, size: int) -> Samples:
    """The same rows, with five preemptions within the epoch that is asked for: each time some rows behind a commit are
    written in vain, then the run goes on from that commit."""
    first, step = EPOCH * data.per_epoch, max(1, data.per_epoch // (PREEMPTIONS + 1))
    contender.create()
    _append(contender, data, 0, first)
    contender.commit()
    for start in range(first, first + PREEMPTIONS * step, step):
        _append(contender, data, start, start + step)
        contender.commit()
        _append(contender, data, start + step, start + step + step // 2)
        contender.commit()                  # these rows come again: the checkpoint was older
        contender.finish()
        contender.resume(start + step)
    _append(contender, data, first + PREEMPTIONS * step, data.rows)
    contender.finish()
    return {}


def read(contender: Contender, data: Data, size: int) -> Samples:
    """Each turn in one process: the first finds nothing decoded."""
    return {"epoch": _read(contender, data)}


def reread(contender: Contender, data: Data, size: int) -> Samples:
    """The same of the run that was preempted."""
    return {"epoch, preempted five times": _read(contender, data)}


def _append(contender: Contender, data: Data, start: int, stop: int) -> None:
    for number, batch in enumerate(data.batches(start, stop), 1):
        contender.append(*batch)
        if number % EVERY == 0:
            contender.commit()


def _read(contender: Contender, data: Data) -> list[float]:
    """Milliseconds until the matrix is there and every byte of it was read once."""
    contender.open()
    rows = range(EPOCH * data.per_epoch, min((EPOCH + 1) * data.per_epoch, data.rows))
    wanted, took = data.at(rows), []
    for turn in range(TURNS):
        begin = time.perf_counter()
        found = contender.epoch(EPOCH)
        folded = fold(found)
        took.append(1e3 * (time.perf_counter() - begin))
        assert folded == fold(wanted), "values differ from those that were written"
        if turn == 0:
            same(found, wanted)
    return took


def limits(data: Data, folder: Path) -> dict[str, dict[str, float]]:
    """The fold alone."""
    floor = {"the fold alone, one core": 1e3 * data.per_epoch * data.row_bytes / machine.bandwidth()}
    return {"epoch": floor, "epoch, preempted five times": floor}
