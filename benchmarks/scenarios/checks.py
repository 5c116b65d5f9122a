"""Values are asserted equal before, or right after, they are timed. A contender that fails here has no figures."""

from __future__ import annotations

import numpy as np

from benchmarks.contender import Contender
from benchmarks.data import Array, Data


def same(found: Array, wanted: Array) -> None:
    """Bit for bit the same matrix."""
    found = np.asarray(found)
    assert found.shape == wanted.shape, f"shape {found.shape}, {wanted.shape} was written"
    assert found.dtype == wanted.dtype, f"dtype {found.dtype}, {wanted.dtype} was written"
    assert np.array_equal(np.ascontiguousarray(found).view(np.uint8), np.ascontiguousarray(wanted).view(np.uint8)), \
        "values differ from those that were written"


def store_is_whole(contender: Contender, data: Data) -> None:
    """Open what was written: every row is counted, and a sample of them is right."""
    contender.open()
    assert contender.count() == data.rows, f"{contender.count():,} rows, {data.rows:,} were written"
    rows = np.random.default_rng(3).integers(0, data.rows, min(data.rows, 512))
    epochs = data.epochs(rows)
    for epoch in np.unique(epochs).tolist():
        chosen = rows[epochs == epoch]
        same(contender.keys(data.ids(chosen), epoch), data.at(chosen))
