"""Vectors by key in bulk: 10,000 random ids at one epoch, as one matrix in the order asked."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from benchmarks import limits as machine
from benchmarks.contender import Contender
from benchmarks.data import Data
from benchmarks.figures import Figure, Samples
from benchmarks.scenarios.checks import same

FIGURES = (Figure("keys", "k rows/s", more_is_better=True), Figure("first call", "ms"))
STORE, STEPS, COLD = "plain", ("ask",), ()
TURNS, MOST_S = 20, 5.0


def ask(contender: Contender, data: Data, size: int) -> Samples:
    """Epoch after epoch in turn. The first call pays for whatever the system makes at first use."""
    contender.open()
    rng, rates, first = np.random.default_rng(9), [], 0.0
    last = (data.rows - 1) // data.per_epoch
    begin = time.perf_counter()
    for turn in range(TURNS):
        epoch = turn % (last + 1)
        rows = epoch * data.per_epoch + rng.integers(0, min(data.per_epoch, data.rows - epoch * data.per_epoch), size)
        ids = data.ids(rows)
        tick = time.perf_counter()
        found = contender.keys(ids, epoch)
        took = time.perf_counter() - tick
        same(found, data.at(rows))
        if turn == 0:
            first = 1e3 * took
        elif turn > last:           # every epoch was asked for once
            rates.append(size / took / 1e3)
        if rates and time.perf_counter() - begin > MOST_S:
            break
    return {"keys": rates, "first call": [first]}


def limits(data: Data, folder: Path) -> dict[str, dict[str, float]]:
    """A dict asked once per key and np.take: what a program that holds everything in memory would pay."""
    block, places = data.block[:data.count], {key: row for row, key in enumerate(data.ids(np.arange(data.rows)))}
    known = list(places)
    names = [known[i] for i in np.random.default_rng(1).integers(0, len(known), 10_000)]
    took = machine.best(lambda: np.take(block, np.array([places[n] for n in names]) % data.count, axis=0, mode="clip"))
    return {"keys": {"dict and np.take": 10_000 / took / 1e3}}
