"""Sample ids as callers have them, made into what the store holds: a clear sentence for each way they can be wrong."""

from __future__ import annotations

import numbers
import reprlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from zstore._typing import Int64s
from zstore.format.keys import MAX_ID_BYTES, Joined, StringIds, join_strings, pack_strings

T = TypeVar("T")
Ids = StringIds | Int64s
_ORDERLESS = (set, frozenset, dict)


def normalise_ids(ids: Any, strings: bool | None) -> Ids:
    """The ids as one batch: ``StringIds``, or an int64 array of shape ``(n,)`` (the caller's own array where it fits).

    ``strings`` says what the store holds; None where that is not settled yet, and then no ids at all are taken as
    integers. Takes lists, tuples, ranges, numpy arrays (integers, ``U``, ``object``, ``StringDType``), pandas Series
    and Index, Arrow arrays (chunked ones too), and tensors of integers; none of these libraries is imported.

    Raises TypeError for things that are no ids, ValueError for ids that no store can hold or that are of the other kind
    than this store's.
    """
    return _read(ids, strings, _packed)


def join_ids(ids: Any, strings: bool | None) -> Joined | Int64s:
    """The same, with strings checked but not packed: what a training thread is asked to wait for."""
    if strings and type(ids) is list:
        quick = _quickly_joined(ids)
        if quick is not None:
            return quick
    return _read(ids, strings, _joined)


def _quickly_joined(items: list[Any]) -> Joined | None:
    """Ids of which a few looks at the whole say that each is good; None where one may not be."""
    if set(map(type, items)) != {str}:
        return None
    lengths = set(map(len, items))
    if min(lengths) == 0 or max(lengths) * 4 > MAX_ID_BYTES:
        return None
    try:
        return join_strings(items)
    except ValueError:
        return None


def _read(ids: Any, strings: bool | None, make: Callable[[list[str]], T]) -> T | Int64s:
    if type(ids) is not list:
        ids = _plain(ids)
    if type(ids) is list:
        return _from_list(ids, strings, make)
    return _from_array(ids, strings, make)


def _plain(ids: Any) -> Any:
    """A list, or a numpy array."""
    if isinstance(ids, np.ndarray):
        return ids
    if isinstance(ids, str):
        raise TypeError(f"ids is one string, {_show(ids)}; a list of ids is needed: write [{_show(ids)}]")
    if isinstance(ids, (bytes, bytearray, memoryview)):
        raise TypeError(f"ids can't be {type(ids).__name__}: write a list of str or of int; decode bytes first")
    if isinstance(ids, _ORDERLESS):
        raise TypeError(f"ids can't be a {type(ids).__name__}, which has no order to match the rows: write list(...)")
    if isinstance(ids, (tuple, list)):
        return list(ids)
    if isinstance(ids, range):
        return np.arange(ids.start, ids.stop, ids.step, dtype=np.int64)
    for name in ("detach", "to_numpy", "__array__"):
        if hasattr(ids, name):
            return _converted(ids, name)
    if isinstance(ids, numbers.Number) or ids is None or not hasattr(ids, "__iter__"):
        raise TypeError(f"ids is {_show(ids)} of type {type(ids).__name__}; a list of str or of int is needed")
    return list(ids)


def _converted(ids: Any, how: str) -> Any:
    """Of a tensor, of pandas and Arrow, of anything that numpy can see."""
    if how == "detach":
        if str(ids.dtype) in ("torch.float32", "torch.float64", "torch.float16", "torch.bfloat16", "torch.bool"):
            raise TypeError(f"ids are a tensor of {ids.dtype}; tensors of ids must hold integers: write ids.long()")
        return np.asarray(ids.detach().cpu())
    if how == "to_numpy" and hasattr(ids, "to_pylist"):      # Arrow: to_numpy of integers with nulls makes floats
        if getattr(ids, "null_count", 0):
            raise TypeError("ids hold None (an Arrow null); every row needs an id")
        if str(ids.type) in ("string", "large_string", "string_view") or str(ids.type).startswith("dictionary"):
            return ids.to_pylist()
    if how == "to_numpy" and str(getattr(ids, "dtype", "")) in ("str", "string", "category", "object"):
        return ids.tolist()
    array = ids.to_numpy() if how == "to_numpy" else np.asarray(ids)
    return np.asarray(array)


def _from_list(items: list[Any], strings: bool | None, make: Callable[[list[str]], T]) -> T | Int64s:
    kinds = set(map(type, items))
    if kinds == {str}:
        _agree(True, strings, items[0])
        return make(items)
    if kinds == {int}:
        return _integers(items, strings)
    if not items:
        return make([]) if strings else np.zeros(0, np.int64)
    if all(issubclass(kind, str) for kind in kinds):
        _agree(True, strings, items[0])
        return make([str(item) for item in items])
    if all(issubclass(kind, (int, np.integer)) and kind is not bool for kind in kinds):
        return _integers([int(item) for item in items], strings)
    raise _blame(items)


def _from_array(array: Any, strings: bool | None, make: Callable[[list[str]], T]) -> T | Int64s:
    if array.ndim != 1:
        raise ValueError(f"ids have the shape {array.shape}; one id per row is needed, shape (n,)")
    kind = array.dtype.kind
    if kind in "UT":
        if len(array) == 0:
            return _from_list([], True if strings is None else strings, make)
        if not hasattr(array.dtype, "na_object"):       # which may stand among the strings, and is none
            _agree(True, strings, array[0])
            return make(array.tolist())
    if kind in "OT":
        return _from_list(array.tolist(), strings, make)
    if kind not in "iu":
        if not len(array) and kind == "f":
            return _from_list([], strings, make)        # np.array([])
        raise TypeError(f"ids are an array of {array.dtype}; ids are str or int" + _hint(kind))
    if kind == "u" and array.dtype.itemsize == 8 and len(array) and int(array.max()) >= 2**63:
        raise ValueError(f"the id {int(array.max())} does not fit in int64; write it as a str")
    _agree(False, strings, array[0] if len(array) else 0)
    return np.ascontiguousarray(array, dtype=np.int64)


def _hint(kind: str) -> str:
    return {"f": ": convert them with .astype('int64')", "b": ", not bool", "S": ": decode bytes with np.char.decode",
            "V": "", "M": ": write str(id)", "m": ": write str(id)"}.get(kind, "")


def _integers(items: list[int], strings: bool | None) -> Int64s:
    _agree(False, strings, items[0])
    try:
        return np.array(items, dtype=np.int64)
    except OverflowError:
        bad = next(item for item in items if not -2**63 <= item < 2**63)
        raise ValueError(f"the id {bad} does not fit in int64; write it as a str") from None


def _joined(items: list[str]) -> Joined:
    quick = _quickly_joined(items)
    if quick is None:
        _packed(items)                  # looks at each of them closely
    return join_strings(items) if quick is None else quick


def _packed(items: list[str]) -> StringIds:
    packed = _told(pack_strings, items)
    lengths = packed.lengths
    if len(lengths) and lengths.min() == 0:
        raise ValueError(f"the id of row {int(lengths.argmin())} is an empty string; every row needs an id")
    if len(lengths) and lengths.max() > MAX_ID_BYTES:
        row = int(lengths.argmax())
        raise ValueError(f"the id {_show(items[row])} of row {row} has {int(lengths[row])} bytes of UTF-8; "
                         f"at most {MAX_ID_BYTES} are allowed, so store a hash of it")
    return packed


def _told(make: Callable[[list[str]], T], items: list[str]) -> T:
    """What ``make`` does of these strings; where it can't, which of them is the reason."""
    try:
        return make(items)
    except UnicodeEncodeError:
        bad = next(item for item in items if not _encodable(item))
        raise ValueError(f"the id {bad!a} holds a lone surrogate, which UTF-8 can't write") from None
    except ValueError:
        bad = next(item for item in items if "\0" in item)
        raise ValueError(f"the id {_show(bad)} holds a NUL character, which no id may") from None


def _agree(given: bool, wanted: bool | None, example: Any) -> None:
    if wanted is None or given == wanted:
        return
    if wanted:
        raise ValueError(f"this store's ids are strings and the id {_show(example)} is an integer: write str(id)")
    raise ValueError(f"this store's ids are integers and the id {_show(example)} is a string: write int(id)")


def _blame(items: list[Any]) -> Exception:
    """What is wrong with a list that is neither all str nor all int."""
    for row, item in enumerate(items):
        where = f"the id of row {row}, {_show(item)},"
        if item is None or type(item).__name__ in ("NAType", "NaTType"):
            return TypeError(f"the id of row {row} is {item}; every row needs an id")
        if isinstance(item, (bool, np.bool_)):
            return TypeError(f"{where} is a bool; ids are str or int")
        if isinstance(item, (bytes, bytearray)):
            return TypeError(f"{where} is bytes; ids are str or int: write id.decode()")
        if isinstance(item, (float, np.floating)):
            return TypeError(f"{where} is a float; ids are str or int: write int(id)")
        if type(item).__name__ == "UUID":
            return TypeError(f"{where} is a UUID; ids are str or int: write str(id)")
        if isinstance(item, (list, tuple, np.ndarray)) and np.ndim(item) > 0:
            return ValueError(f"{where} is a {type(item).__name__}; ids are one list of str or int, shape (n,)")
        if not isinstance(item, (str, int, np.integer)):
            return TypeError(f"{where} is of type {type(item).__name__}; ids are str or int: write str(id) or int(id)")
    return TypeError("ids mix str and int; one store has one kind: write str(id) for all")


def _encodable(item: str) -> bool:
    try:
        item.encode()
    except UnicodeEncodeError:
        return False
    return True


def _show(item: Any) -> str:
    return ascii(item) if isinstance(item, str) and not _encodable(item) else reprlib.repr(item)


def one_id(item: Any, strings: bool) -> str | int:
    """One id, checked as ``normalise_ids`` does; a plain str or int. Scalars of numpy and 0-d arrays are taken."""
    if type(item) is str and strings:
        if item and len(item) * 4 <= MAX_ID_BYTES and "\0" not in item and (item.isascii() or _encodable(item)):
            return item
    elif type(item) is int and not strings and -2**63 <= item < 2**63:
        return item
    found = normalise_ids([item.item() if hasattr(item, "item") and np.ndim(item) == 0 else item], strings)
    return found.to_list()[0] if isinstance(found, StringIds) else int(found[0])


def is_one(ids: Any) -> bool:
    """One id rather than many: a str, a number, or a 0-d array or tensor."""
    return isinstance(ids, (str, bytes, int, float, np.generic)) or ids is None or (
        hasattr(ids, "ndim") and ids.ndim == 0) or type(ids).__name__ == "UUID"
