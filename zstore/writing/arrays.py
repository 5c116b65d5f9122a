"""What a caller may hand in as vectors or as a field, as a numpy array; and casts that lose nothing in silence."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from zstore._typing import Array
from zstore.format import dtypes


def as_array(value: Any, what: str) -> Array:
    """A numpy array of the value: no copy where numpy can see its memory. numpy, torch on any device, pandas, Arrow, jax
    and sequences; TypeError or ValueError that names ``what`` for anything else."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{what} is a masked array; fill it first: .filled(numpy.nan)")
    if isinstance(value, np.ndarray):
        return value
    if is_tensor(value):
        return _from_tensor(value)
    try:
        if hasattr(value, "to_numpy"):
            return np.asarray(_to_numpy(value))
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        hint = "rows of different lengths; make them one length" if "inhomogeneous" in str(error) else error
        raise ValueError(f"{what} can't be made an array: {hint}") from None


def is_tensor(value: Any) -> bool:
    """A torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _from_tensor(tensor: Any) -> Array:
    torch = sys.modules["torch"]
    try:
        return np.asarray(tensor.numpy())
    except (TypeError, RuntimeError):       # on a device, with a gradient, of a type that numpy has not
        tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        # numpy has no bfloat16: go through its bits.
        return np.asarray(tensor.contiguous().view(torch.uint16).numpy().view(dtypes.numpy_dtype(dtypes.BFLOAT16)))
    return np.asarray(tensor.resolve_neg().resolve_conj().numpy())


def _to_numpy(value: Any) -> Any:
    try:
        return value.to_numpy(zero_copy_only=False)     # Arrow
    except TypeError:
        return value.to_numpy()                         # pandas, polars


def check_kind(array: Array, what: str) -> str:
    """The format's name of the array's dtype; TypeError with the way out for one that a store can't hold."""
    name = dtypes.name_of(array.dtype)
    if name is not None:
        return name
    kind = array.dtype.kind
    if kind == "O":
        raise TypeError(f"{what} is an object array (ragged rows, or None among the values?); give one dtype and shape")
    if kind == "c":
        raise TypeError(f"{what} is complex; store its real and imaginary parts side by side: "
                        "np.concatenate([x.real, x.imag], axis=1)")
    if kind in "mM":
        raise TypeError(f"{what} is of dates or times; give seconds as float64, or .astype('int64')")
    raise TypeError(f"{what} has the dtype {array.dtype}, which a store can't hold; cast it first")


def cast(array: Array, dtype: str, what: str) -> Array:
    """The array in the store's dtype. Floats are rounded; a finite value that would overflow is refused, and so is every
    integer that would change. The same array where nothing is to do."""
    source = check_kind(array, what)
    if source == dtype:
        return array
    target = dtypes.numpy_dtype(dtype)
    if dtypes.is_float(source) and not dtypes.is_float(dtype):
        raise TypeError(f"{what} is {source}, but the store holds {dtype}; quantise it first")
    if dtypes.STRING in (source, dtype):
        raise TypeError(f"{what} is {source}, but the store holds {dtype}")
    with np.errstate(over="ignore", invalid="ignore"):
        out = array.astype(target)
        if dtypes.is_float(source):
            _refuse_overflow(array, out, dtype, what)
        elif not np.array_equal(out.astype(array.dtype), array) or not np.array_equal(out < 0, array < 0):
            # The second question is for signs: -1 goes to uint8 as 255, and comes back as -1.
            raise ValueError(f"{what} holds {source} values that {dtype}, the store's type, can't hold exactly")
    return out


def _refuse_overflow(array: Array, out: Array, dtype: str, what: str) -> None:
    lost = np.isfinite(array) & ~np.isfinite(out)
    if lost.any():
        at = tuple(int(i) for i in np.argwhere(lost)[0])
        raise ValueError(f"{what}: the value {array[at]} in row {at[0]} overflows {dtype}, the store's type; nothing of the "
                         "batch was appended. Scale it, or make a store of a wider dtype")
