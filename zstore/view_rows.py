"""What stands between the brackets of a view: rows by number, never keys."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from zstore._typing import Int64s


def index_rows(rows: Any, count: int) -> int | range | Int64s:
    """Row numbers in ``[0, count)`` of an int, a slice, a mask or a list of ints. IndexError beyond; else TypeError."""
    if isinstance(rows, slice):
        return range(*rows.indices(count))
    if isinstance(rows, (str, bytes)):
        raise TypeError(f"view[...] takes row numbers, not keys: write view.get({rows!r})")
    if isinstance(rows, tuple) or rows is None or rows is Ellipsis:
        raise TypeError("view[...] indexes rows only; index the array of the result for the other axes")
    if not isinstance(rows, (bool, np.bool_, list, np.ndarray)) and hasattr(rows, "__index__") and not _has_axes(rows):
        return _one(operator.index(rows), count)
    array = np.asarray(rows)
    if array.ndim == 0 and array.dtype.kind in "iu":
        return _one(int(array), count)
    if array.dtype.kind == "U" or array.dtype.kind == "T":
        raise TypeError("view[...] takes row numbers, not keys: write view.get([...])")
    if array.ndim != 1:
        raise IndexError(f"rows are picked by one axis, and the index has the shape {array.shape}")
    if array.dtype == bool:
        if len(array) != count:
            raise IndexError(f"the mask has {len(array)} entries and the view {count} rows")
        return np.flatnonzero(array)
    if not len(array):
        return np.zeros(0, np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"view[...] takes row numbers or a mask, not {array.dtype}")
    picked = array.astype(np.int64)
    low, high = int(picked.min()), int(picked.max())
    if low < -count or high >= count:
        raise IndexError(f"row {low if low < -count else high} is not in a view of {count} rows")
    return np.where(picked < 0, picked + count, picked) if low < 0 else picked


def _has_axes(rows: Any) -> bool:
    return getattr(rows, "ndim", 0) > 0


def _one(row: int, count: int) -> int:
    if not -count <= row < count:
        raise IndexError(f"row {row} is not in a view of {count} rows")
    return row + count if row < 0 else row
