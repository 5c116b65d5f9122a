"""The rows that every benchmark writes and reads: real sentence embeddings, in turn, under string ids, over five epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

Array = Any
BATCH, EVERY, EPOCHS = 256, 50, 5      # rows of a batch, batches between two commits, epochs of a run
BASE = 20_480                          # distinct vectors; row r holds vector r % BASE


def dtype_of(name: str) -> Any:
    """The numpy type of "float32", "float16", "bfloat16"."""
    if name == "bfloat16":
        import ml_dtypes
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


class Data:
    """``rows`` rows of ``dim`` values. What is asked for is made before a clock runs; a batch is a view.

    Row r is sample r % per_epoch at epoch r // per_epoch. ``per_epoch`` is no divisor of the number of distinct vectors, so a
    sample's vectors differ from epoch to epoch, and a row that comes from the wrong epoch is seen."""

    def __init__(self, base: Array, rows: int, dim: int, dtype: str = "float32") -> None:
        if base.shape[1] < dim:        # wider than the model's: other samples' values follow
            base = np.hstack([np.roll(base, shift, axis=0) for shift in range(-(-dim // base.shape[1]))])
        base = np.ascontiguousarray(base[:, :dim]).astype(dtype_of(dtype))
        self.count = len(base)
        self.block = np.concatenate([base, base[:max(BATCH * EVERY, BATCH) % self.count + BATCH]])
        self.rows, self.dim, self.dtype = rows, dim, dtype
        per_epoch = max(1, -(-rows // EPOCHS))
        self.per_epoch = per_epoch + (per_epoch % self.count == 0)
        self.row_bytes = base.dtype.itemsize * dim

    @property
    def nbytes(self) -> int:
        return self.rows * self.row_bytes

    def batches(self, start: int = 0, stop: int | None = None) -> list[tuple[list[str], int, Array]]:
        """(ids, epoch, vectors) of rows [start, stop) in batches of at most BATCH rows of one epoch each."""
        found, stop = [], self.rows if stop is None else stop
        while start < stop:
            epoch = start // self.per_epoch
            end = min(start + BATCH, stop, (epoch + 1) * self.per_epoch)
            found.append((self.ids(np.arange(start, end)), epoch, self.vectors(start, end)))
            start = end
        return found

    def vectors(self, start: int, stop: int) -> Array:
        """Rows [start, stop), at most a batch: a view."""
        at = start % self.count
        return self.block[at:at + stop - start]

    def ids(self, rows: Array) -> list[str]:
        """The ids of these rows."""
        return [f"doc-{row:07d}" for row in (np.asarray(rows) % self.per_epoch).tolist()]

    def epochs(self, rows: Array) -> Array:
        """The epochs of these rows, (n,) int32."""
        return (np.asarray(rows) // self.per_epoch).astype(np.int32)

    def at(self, rows: Array) -> Array:
        """The vectors of these rows, (n, dim); a copy."""
        return self.block[np.asarray(rows) % self.count]

    def fold(self) -> int:
        """Every value of every row folded into one word by exclusive or: what a scan must give."""
        whole, rest = divmod(self.rows, self.count)
        base = fold(self.block[:self.count]) if whole % 2 else 0
        return base ^ fold(self.block[:rest])


def fold(block: Array) -> int:
    """The exclusive or of a block's bytes, as words of 8: reads every byte once, at the speed of memory. ``block``: (n, dim),
    contiguous, of a multiple of 8 bytes."""
    if not len(block):
        return 0
    words = np.ascontiguousarray(block).reshape(-1).view(np.uint64)
    return int(np.bitwise_xor.reduce(words))


def load(source: str, folder: Path | None = None) -> Array:
    """The distinct vectors, (BASE, dim) float32. ``source``: "real" (made once by a real model, see embeddings.py), "random"
    (unit vectors of a fixed seed), or an .npy file of your own."""
    if source == "real":
        from benchmarks import embeddings
        return embeddings.load(folder)
    if source == "random":
        block = np.random.default_rng(7).standard_normal((4_093, 384), np.float32)
        return block / np.linalg.norm(block, axis=1, keepdims=True)
    base = np.load(source)
    if base.ndim != 2:
        raise SystemExit(f"{source} holds an array of shape {base.shape}; (rows, dim) is needed")
    return base.astype(np.float32)
