"""Dims: longer vectors; what moves bytes may grow with them, nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np

import zstore
from benchmarks.growth.measure import BATCH, Sweep, ids_of

TOY, MOST = 128, 8192
DTYPE, ROWS = "float32", 10_240


def run(sweep: Sweep, most: int) -> list[dict[str, Any]]:
    """Powers of two from 64 up to ``most``; a store each, of 10,240 rows."""
    points, dim, rows = [], 64, BATCH if sweep.toy else ROWS
    while dim <= most:
        url = sweep.url(f"dims-{dim}")
        vectors = np.random.default_rng(dim).standard_normal((BATCH, dim), np.float32)
        with zstore.Writer(url, codec="raw", commit_every_s=None) as writer:
            for first in range(0, rows, BATCH):
                writer.append(ids_of(np.arange(first, first + BATCH)), vectors)
        points.append(sweep.point(dim, url, ids=rows, epochs=[0], dim=dim, dtype=DTYPE))
        dim *= 2
    return points
