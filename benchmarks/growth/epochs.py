"""Epochs: the same ids again and again, one epoch after the other."""

from __future__ import annotations

from typing import Any

import numpy as np

import zstore
from benchmarks.growth.measure import Sweep, ids_of

TOY, MOST = 10, 10**4
DIM, DTYPE, IDS, COMMITS = 32, "float16", 256, 200


def run(sweep: Sweep, most: int) -> list[dict[str, Any]]:
    """Powers of ten from 1 up to ``most``, 256 ids each; the epochs come in at most 200 commits more at each point."""
    url, done, points, at = sweep.url("epochs"), 0, [], 1
    while at <= most:
        _grow(url, done, at)
        done = at
        points.append(sweep.point(at, url, ids=IDS, epochs=list(range(at)), dim=DIM, dtype=DTYPE, write=at * 10 > most))
        at *= 10
    return points


def _grow(url: str, first: int, upto: int) -> None:
    vectors = np.random.default_rng(first).standard_normal((IDS, DIM)).astype(DTYPE)
    each = max((upto - first) // COMMITS, 1)
    with zstore.Writer(url, codec="raw", commit_every_s=None) as writer:
        for epoch in range(first, upto):
            writer.append(ids_of(np.arange(IDS)), vectors, epoch=epoch)
            if epoch % each == 0:
                writer.commit()
