"""The data types a store holds, as Zarr names them and as numpy sees them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

STRING = "string"
BFLOAT16 = "bfloat16"
_PLAIN = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
          "float16", "float32", "float64")
NAMES = (*_PLAIN, BFLOAT16, STRING)
FLOATS = ("float16", BFLOAT16, "float32", "float64")
VECTOR_NAMES = (*FLOATS, "int8", "uint8")


@cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """The little-endian numpy dtype of a fixed-width type. bfloat16 is ml_dtypes', imported only when met."""
    if name == BFLOAT16:
        import ml_dtypes
        bits: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bits
    if name not in _PLAIN:
        raise ValueError(f"{name!r} has no fixed width")
    # By its code: on a little-endian machine that is the native dtype, whose memory Python can index.
    return np.dtype("<" + np.dtype(name).str[1:])


def name_of(dtype: Any) -> str | None:
    """The format's name of a numpy dtype, a torch dtype, or a name; None for what a store can't hold."""
    if isinstance(dtype, np.dtype):
        return _name_of_numpy(dtype)
    if dtype is str or (isinstance(dtype, str) and dtype in ("str", STRING)):
        return STRING
    text = str(dtype).removeprefix("torch.")
    if text in NAMES:
        return text
    try:
        return _name_of_numpy(np.dtype(dtype))
    except TypeError:
        return None


@cache
def _name_of_numpy(dtype: np.dtype[Any]) -> str | None:
    # Cached: numpy makes a dtype's name anew each time, which costs as much as copying a small batch.
    if dtype.kind in "UT":
        return STRING
    name = dtype.newbyteorder("=").name
    return name if name in NAMES else None


def itemsize(name: str) -> int:
    """Bytes of one item; 0 for strings, which have no fixed width."""
    if name == STRING:
        return 0
    return 2 if name == BFLOAT16 else np.dtype(name).itemsize


def is_float(name: str) -> bool:
    return name in FLOATS


def fill_value(name: str) -> Any:
    """What stands at an address that was never written: NaN, False, 0 or an empty string."""
    if name == STRING:
        return ""
    if name in FLOATS:
        return float("nan")
    return False if name == "bool" else 0


def fill_json(value: Any) -> Any:
    """A fill value as Zarr v3 writes it."""
    if isinstance(value, float):
        if value != value:
            return "NaN"
        if value in (float("inf"), float("-inf")):
            return "Infinity" if value > 0 else "-Infinity"
    return value


def fill_from_json(value: Any) -> Any:
    """The inverse of ``fill_json``."""
    special = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
    return special.get(value, value) if isinstance(value, str) else value
