"""The door: a batch is looked at whole, and taken or refused whole, before any byte moves."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zstore._typing import Array
from zstore.format import dtypes
from zstore.format.keys import Joined, join_strings
from zstore.format.schema import (
    EPOCH,
    IDS,
    MAX_ROW_BYTES,
    MAX_STRING_BYTES,
    VECTORS,
    Field,
    Schema,
    check_field_name,
)
from zstore.ids import join_ids
from zstore.writing.arrays import as_array, cast, check_kind

MAX_EPOCH = 2**31 - 1


@dataclass(slots=True)
class Batch:
    """``rows`` rows of every field. ``arrays``, (rows, *shape), may be the caller's own, who changes them as soon as `append`
    returns. ``others`` never change, and need not be copied before: joined strings, or one scalar for all rows."""

    rows: int
    arrays: dict[str, Array]
    others: dict[str, Any]


class Door:
    """What the batches of one schema must be. What can be known before a batch comes is: a training step turns the caches
    over, and then each line of Python costs the training thread microseconds."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._strings = schema.ids_are_strings
        self._vectors, self._dtype = schema.vectors, schema.vectors.numpy_dtype
        self._fields = list(schema.user_fields.items())

    def read(self, ids: Any, vectors: Any, epoch: Any, fields: Mapping[str, Any]) -> Batch | None:
        """The batch in the store's own types; None for an empty one. Raises TypeError or ValueError, with nothing taken."""
        column: Any
        plain = (type(vectors) is np.ndarray and vectors.dtype is self._dtype and type(ids) is list
                 and vectors.shape == (len(ids), *self._vectors.shape))     # as nearly every batch is
        if plain:
            rows, column, array = len(ids), join_ids(ids, self._strings), vectors
        else:
            rows, column, array = _ids_and_vectors(ids, vectors, strings=self._strings)
        if fields or self._fields:
            _check_names(fields, self._schema)
        if rows == 0:
            return None
        if not plain:
            array = _read_vectors(array, self._vectors)
        batch = Batch(rows, {VECTORS: array}, {})
        columns: list[tuple[str, Any]] = [
            (IDS, column), (EPOCH, epoch if type(epoch) is int and 0 <= epoch <= MAX_EPOCH else read_epoch(epoch, rows))]
        columns += [(name, read_field(field, fields[name], rows) if name in fields else _left_out(field, rows))
                    for name, field in self._fields]
        for name, value in columns:
            (batch.arrays if isinstance(value, np.ndarray) else batch.others)[name] = value
        return batch


def _read_vectors(array: Array, f: Field) -> Array:
    if array.shape[1:] != f.shape:
        raise ValueError(f"vectors are of shape {_per_row(array.shape[1:])} per row, but the store holds {_per_row(f.shape)}")
    if dtypes.is_float(f.dtype) and not dtypes.is_float(check_kind(array, "vectors")):
        raise TypeError(f"vectors are {array.dtype}, but the store holds {f.dtype}; cast them: vectors.astype('{f.dtype}')")
    return cast(array, f.dtype, "vectors")


def _left_out(field: Field, rows: int) -> Any:
    return join_strings([str(field.fill)] * rows) if field.is_string else field.numpy_dtype.type(field.fill)


def _ids_and_vectors(ids: Any, vectors: Any, *, strings: bool | None) -> tuple[int, Array | Joined, Array]:
    if type(ids) is not list and _looks_like_vectors(ids) and not _looks_like_vectors(vectors):
        raise TypeError("ids and vectors look swapped: append(ids, vectors)")
    column = join_ids(ids, strings)
    array = as_array(vectors, "vectors")
    if len(column) == 0 and array.shape[:1] == (0,):
        return 0, column, array
    if array.ndim < 2:
        raise ValueError(f"vectors must be of shape (rows, dim), not {array.shape}; one vector is vectors[None, :]")
    if len(column) != len(array):
        raise ValueError(f"{len(column)} ids but {len(array)} vectors; give one id per row")
    return len(column), column, array


def _looks_like_vectors(value: Any) -> bool:
    shape = getattr(value, "shape", None)
    return shape is not None and len(shape) >= 2


def read_epoch(epoch: Any, rows: int) -> Any:
    """An int, or an int32 array (rows,)."""
    if isinstance(epoch, int) and not isinstance(epoch, bool):
        if not 0 <= epoch <= MAX_EPOCH:
            raise ValueError(f"epoch must be from 0 to {MAX_EPOCH}, not {epoch}")
        return int(epoch)
    array = as_array(epoch, "epoch")
    if array.dtype.kind not in "iu":
        raise TypeError(f"epoch must be an integer, or one integer per row, not {epoch!r:.60}")
    if array.ndim == 0:
        return read_epoch(int(array), rows)
    if array.shape != (rows,):
        raise ValueError(f"epoch must be one integer, or of shape ({rows},), not {array.shape}")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > MAX_EPOCH:
        raise ValueError(f"epoch must be from 0 to {MAX_EPOCH}, not {low if low < 0 else high}")
    return array.astype(np.int32)


def _check_names(fields: Mapping[str, Any], schema: Schema) -> None:
    known = schema.user_fields
    for name in fields:
        if name not in known:
            check_field_name(name)
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, known)) or 'none of its own'};"
            raise ValueError(f"the store has no field {name!r}: {hint} add one with writer.add_field(...)")
    missing = [name for name, field in known.items() if name not in fields and not field.optional]
    if missing:
        raise ValueError(f"the field {missing[0]!r} is missing: every row of this store has one; pass {missing[0]}=...")


def read_field(field: Field, value: Any, rows: int) -> Any:
    """A user's field as a column: an array (rows, *shape), joined strings, or one scalar for all rows."""
    what = f"the field {field.name!r}"
    if field.is_string:
        return read_strings(value, rows, what)
    array = as_array(value, what)
    if array.ndim == 0 and not field.shape:
        return cast(array.reshape(1), field.dtype, what)[0]
    if array.shape != (rows, *field.shape):
        raise ValueError(f"{what} must be of shape {(rows, *field.shape)}, not {array.shape}")
    return cast(array, field.dtype, what)


def read_strings(value: Any, rows: int, what: str) -> Joined:
    """A user's text field. Empty strings are values here."""
    if isinstance(value, (list, tuple)):        # numpy would make strings of numbers, and drop a NUL at the end
        items = list(value)
    else:
        items = [value] * rows if isinstance(value, str) else np.atleast_1d(as_array(value, what)).tolist()
    if len(items) != rows:
        raise ValueError(f"{what} must be one string per row ({rows}), not {len(items)}")
    try:
        joined = join_strings(items)
    except TypeError:
        wrong = next(item for item in items if not isinstance(item, str))
        raise TypeError(f"{what} holds strings, not {type(wrong).__name__} ({wrong!r:.60})") from None
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} holds a string that is not valid Unicode (a lone surrogate): {error}") from None
    except ValueError:
        raise ValueError(f"{what} holds a NUL character; strip it") from None
    if len(joined.text) > MAX_STRING_BYTES:
        longest = max(len(item.encode()) for item in items)
        if longest > MAX_STRING_BYTES:
            raise ValueError(f"{what} holds a string of {longest} bytes; at most {MAX_STRING_BYTES}")
    return joined


def first_batch(ids: Any, vectors: Any, *, id_dtype: str | None, dtype: str | None, dim: int | None,
                ) -> tuple[str, str, tuple[int, ...]] | None:
    """``(id type, vector dtype, vector shape)`` of a store that begins with this batch; None for an empty one."""
    strings = None if id_dtype is None else id_dtype == dtypes.STRING
    rows, column, array = _ids_and_vectors(ids, vectors, strings=strings)
    if rows == 0:
        return None
    name = check_kind(array, "vectors")
    if name not in dtypes.VECTOR_NAMES:
        raise TypeError(f"vectors are {array.dtype}; a store holds {', '.join(dtypes.VECTOR_NAMES)}: cast them first")
    shape = tuple(int(n) for n in array.shape[1:])
    if 0 in shape:
        raise ValueError(f"vectors of shape {array.shape} hold no numbers")
    if dim is not None and shape != (dim,):
        raise ValueError(f"dim={dim} was given, but the vectors are of shape {_per_row(shape)} per row")
    if array[:1].nbytes > MAX_ROW_BYTES:
        raise ValueError(f"one row is {array[:1].nbytes} bytes; at most {MAX_ROW_BYTES}")
    return (dtypes.STRING if isinstance(column, Joined) else "int64"), dtype or name, shape


def first_field(name: str, value: Any, rows: int) -> tuple[str, tuple[int, ...]]:
    """The dtype and shape per row of a field that the first batch brings."""
    what = f"the field {check_field_name(name)!r}"
    if isinstance(value, str):
        return dtypes.STRING, ()
    array = as_array(value, what)
    if array.dtype.kind == "O" and array.size and all(isinstance(item, str) for item in array.flat):
        kind = dtypes.STRING
    else:
        kind = check_kind(array, what)
    if array.ndim == 0:
        return kind, ()
    if len(array) != rows:
        raise ValueError(f"{what} must be of length {rows}, one entry per row, not {len(array)}")
    shape = tuple(int(n) for n in array.shape[1:])
    if 0 in shape or (shape and kind == dtypes.STRING):
        raise ValueError(f"{what} can't be of shape {_per_row(shape)} per row")
    return kind, shape


def _per_row(shape: tuple[int, ...]) -> str:
    return str(shape[0]) if len(shape) == 1 else str(shape)
