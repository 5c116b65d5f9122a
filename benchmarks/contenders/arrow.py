"""What Lance and Parquet share: rows as an Arrow table, and a column of vectors as a matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.data import Array


def table_of(vectors: Array, ids: list[str], epochs: Array) -> pa.Table:
    """Columns id, epoch and vector; the vectors are no copy."""
    return pa.table({"id": pa.array(ids, pa.string()), "epoch": pa.array(epochs),
                     "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])})


def matrix(column: Any, dim: int) -> Array:
    """(n, dim) of a column of vectors, a view where it is one piece."""
    pieces = [piece.flatten().to_numpy(zero_copy_only=False) for piece in getattr(column, "chunks", [column])]
    flat = pieces[0] if len(pieces) == 1 else np.concatenate(pieces) if pieces else np.empty(0, np.float32)
    return flat.reshape(-1, dim)
