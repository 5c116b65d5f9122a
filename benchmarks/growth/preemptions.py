"""Preemptions: a writer is gone in the midst of its rows; the next one rolls back to the last mark and goes on.

Simulated within one process, for ten thousand kills would take hours: the writer's locks are let go of as the system does at
a kill, and nothing is committed or handed over. What then lies on the disk is what a kill leaves (tests/crash kills for real).
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np

import zstore
from benchmarks.growth.measure import BATCH, Sweep, ids_of

TOY, MOST = 4, 10**3
DIM, DTYPE, ROWS_PER_SHARD = 32, "float16", 4096


def run(sweep: Sweep, most: int) -> list[dict[str, Any]]:
    """Powers of ten from 1 (a toy: of two) up to ``most``; each costs an extent, a shard and a session."""
    url, done, points, at = sweep.url("preemptions"), 0, [], 1
    while at <= most:
        _grow(url, done, at)
        done = at
        points.append(sweep.point(at, url, ids=at * BATCH, epochs=[0], dim=DIM, dtype=DTYPE))
        at *= 10 if not sweep.toy else 2
    return points


def _grow(url: str, first: int, upto: int) -> None:
    vectors = np.random.default_rng(first).standard_normal((BATCH, DIM)).astype(DTYPE)
    logging.getLogger("zstore").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mark = zstore.Reader(url)._now()[0].record.mark if first else None
        for number in range(first, upto):
            writer = zstore.Writer(url, codec="raw", commit_every_s=None, at=mark, rows_per_shard=ROWS_PER_SHARD)
            writer.append(ids_of(np.arange(number * BATCH, (number + 1) * BATCH)), vectors)
            commit = writer.commit()
            assert commit is not None
            mark = commit.mark
            writer.append(ids_of(np.arange(BATCH)), vectors, epoch=1)       # is lost, and its addresses with it
            writer._let_go()
