"""One vector by its key, one call after another, all rows touched before."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from benchmarks import limits as machine
from benchmarks.contender import Contender
from benchmarks.data import Data
from benchmarks.figures import Figure, Samples
from benchmarks.scenarios.checks import same

FIGURES = (Figure("one key", "us", head="p99"),)
STORE, STEPS, COLD = "plain", ("ask",), ()
MOST_S = 4.0


def ask(contender: Contender, data: Data, size: int) -> Samples:
    """Random keys; a system that needs milliseconds a key is asked fewer."""
    contender.open()
    begin = time.perf_counter()
    for start in range(0, data.rows, size):
        contender.gather(np.arange(start, min(start + size, data.rows)))
        if time.perf_counter() - begin > MOST_S:        # a system this slow keeps nothing that warmth would help
            break
    rows = np.random.default_rng(8).integers(0, data.rows, size)
    ids, epochs, wanted = data.ids(rows), data.epochs(rows).tolist(), data.at(rows)
    took: list[float] = []
    begin = time.perf_counter()
    for number in range(size):
        tick = time.perf_counter()
        found = contender.key(ids[number], epochs[number])
        took.append(1e6 * (time.perf_counter() - tick))
        if number % 10 == 0:
            same(found, wanted[number])
        if time.perf_counter() - begin > MOST_S:
            break
    return {"one key": took[len(took) // 10:]}          # the first tenth warms what is made at first use


def limits(data: Data, folder: Path) -> dict[str, dict[str, float]]:
    """A dict's answer and a copy of the row."""
    block, places = data.block, {key: row for row, key in enumerate(data.ids(np.arange(data.rows)))}
    names = list(places)[:10_000]

    def ask_all() -> None:
        for name in names:
            block[places[name] % len(block)].copy()
    return {"one key": {"dict and one row copied": 1e6 * machine.best(ask_all) / len(names)}}
