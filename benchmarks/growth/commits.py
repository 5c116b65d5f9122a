"""Commits: eight rows each, as small as a commit gets."""

from __future__ import annotations

from typing import Any

import numpy as np

import zstore
from benchmarks.growth.measure import Sweep, ids_of

TOY, MOST = 20, 10**4
DIM, DTYPE, ROWS = 32, "float16", 8


def run(sweep: Sweep, most: int) -> list[dict[str, Any]]:
    """Powers of ten from 10 (a toy: of two) up to ``most``; one session makes all that a point adds."""
    url, done, points, at = sweep.url("commits"), 0, [], 10
    while at <= most:
        _grow(url, done, at)
        done = at
        points.append(sweep.point(at, url, ids=at * ROWS, epochs=[0], dim=DIM, dtype=DTYPE))
        at *= 10 if not sweep.toy else 2
    return points


def _grow(url: str, first: int, upto: int) -> None:
    vectors = np.random.default_rng(first).standard_normal((ROWS, DIM)).astype(DTYPE)
    with zstore.Writer(url, codec="raw", commit_every_s=None) as writer:
        for number in range(first, upto):
            writer.append(ids_of(np.arange(number * ROWS, (number + 1) * ROWS)), vectors)
            writer.commit()
