"""Rows: one epoch, ever more of them; 32-d float16 keeps 10^8 near 8 GB."""

from __future__ import annotations

from typing import Any

import numpy as np

import zstore
from benchmarks.growth.measure import Sweep, ids_of

TOY, MOST = 3_000, 10**7
DIM, DTYPE, PIECE, PER_COMMIT = 32, "float16", 2**15, 2**20


def run(sweep: Sweep, most: int) -> list[dict[str, Any]]:
    """Powers of ten from 10^4 (a toy: from 10^3) up to ``most``; one store that grows."""
    url, rows, points, at = sweep.url("rows"), 0, [], 1_000 if sweep.toy else 10_000
    while at <= most:
        rows = _grow(url, rows, at)
        points.append(sweep.point(at, url, ids=at, epochs=[0], dim=DIM, dtype=DTYPE))
        at *= 10 if not sweep.toy else 3
    return points


def _grow(url: str, rows: int, upto: int) -> int:
    vectors = np.random.default_rng(rows).standard_normal((PIECE, DIM)).astype(DTYPE)
    with zstore.Writer(url, codec="raw", commit_every_s=None) as writer:
        while rows < upto:
            count = min(PIECE, upto - rows)
            writer.append(ids_of(np.arange(rows, rows + count)), vectors[:count])
            rows += count
            if rows % PER_COMMIT == 0:
                writer.commit()
    return rows
