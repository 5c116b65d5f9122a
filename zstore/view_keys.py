"""Keys of a view's rows: find, get, and one row per id."""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np
import numpy.typing as npt

from zstore._typing import Array, Int64s
from zstore.errors import NotFound
from zstore.format import keys as key_rules
from zstore.format.dtypes import is_float
from zstore.format.keys import StringIds
from zstore.format.schema import Schema
from zstore.ids import is_one, normalise_ids, one_id
from zstore.index import KeyIndex
from zstore.mapping import Column
from zstore.rows import Rows
from zstore.storage.limits import available_memory

NEAR_SAMPLE = 20_000
MAX_EPOCH = 2**31 - 1
_SIGN = 1 << 63


def find_rows(index: KeyIndex, schema: Schema, rows: Rows, ids: Any, epoch: Any) -> Any:
    """See ``View.find``."""
    if rows.extents is index.extents and (epoch is None or type(epoch) is int) and type(ids) in (str, int):
        return int(rows.rows(np.array([_one_address(index, schema, ids, epoch)]))[0])
    addresses = _addresses(index, schema, rows, ids, epoch, rows.extents is index.extents)
    found = rows.rows(addresses.reshape(-1)).reshape(addresses.shape)
    return int(found) if found.ndim == 0 else found


def fetch(index: KeyIndex, schema: Schema, column: Column, names: Column, rows: Rows, ids: Any, epoch: Any,
          missing: str, whole: bool) -> Any:
    """See ``View.get``; ``whole``: the rows are all of the version's."""
    if missing != "raise":
        _check_missing(column, missing)
    if whole and (epoch is None or type(epoch) is int) and type(ids) in (str, int):
        address = _one_address(index, schema, ids, epoch)
        if address >= 0:
            return column.one(address)
    addresses = _addresses(index, schema, rows, ids, epoch, whole)
    flat = addresses.reshape(-1)
    absent = flat < 0
    lost = bool(absent.any())
    if lost and missing == "raise":
        raise NotFound(_explain(index, schema, names, rows, ids, epoch, addresses))
    _refuse_too_much(flat, column)
    if lost:
        values = column.empty(len(flat))
        values[absent] = np.nan
        values[~absent] = column.take(flat[~absent])
    else:
        values = column.take(flat)
    shaped = values.reshape(addresses.shape + column.field.shape)
    return shaped[()] if shaped.ndim == 0 else shaped


def one_per_id(index: KeyIndex, rows: Rows) -> Rows:
    """Of these rows the highest epoch's of each id, and of its rows the highest address; in row order."""
    entries = index.entries(rows.extents)
    if rows.extents is None:
        entries = entries.take(np.flatnonzero(rows.contains(entries.address)))
    key, check = entries.key, entries.check
    same = key[1:] == key[:-1]
    if (check[1:] != check[:-1])[same].any():       # two ids with one 64-bit hash: rare, but not the same id
        entries = entries.take(np.lexsort((entries.address, entries.epoch, check, key)))
        same = (entries.key[1:] == entries.key[:-1]) & (entries.check[1:] == entries.check[:-1])
    last = np.append(~same, True)[:len(entries)]
    if len(entries) == len(rows) and last.all():
        return rows
    return rows.take(np.sort(rows.rows(entries.address[last])))


def _one_address(index: KeyIndex, schema: Schema, item: Any, epoch: int | None) -> int:
    """Of one key of the whole version; -1 where it is absent."""
    known = one_id(item, schema.ids_are_strings)
    if epoch is not None and not 0 <= epoch <= MAX_EPOCH:
        return -1
    if isinstance(known, str):
        key, check = key_rules.hash_string(known.encode(), key_rules.seed_of(schema.store_id))
    else:
        key, check = known + _SIGN, 0
    return index.lookup_one(key, check, epoch)


def _addresses(index: KeyIndex, schema: Schema, rows: Rows, ids: Any, epoch: Any, whole: bool) -> Int64s:
    """The address of each key, -1 where absent, shaped by the axes of ids and epochs."""
    single = is_one(ids)
    if single:
        ids = [one_id(ids, schema.ids_are_strings)]
    keys, checks = _hashed(ids, schema)
    visible = None if whole else rows.contains
    epochs = _epochs(epoch)
    if epochs is None or epochs.ndim == 0:
        exact: int | None = None if epochs is None else int(epochs)
        if exact is not None and not 0 <= exact <= MAX_EPOCH:
            found = np.full(len(keys), -1, np.int64)
        else:
            found = index.lookup(keys, checks, exact, visible)
        return found.reshape(()) if single else found
    found = np.full((len(keys), len(epochs)), -1, np.int64)
    legal = np.flatnonzero((epochs >= 0) & (epochs <= MAX_EPOCH))
    if len(legal) and len(keys):
        asked = np.tile(epochs[legal].astype(np.int32), len(keys))
        every = index.lookup(np.repeat(keys, len(legal)), np.repeat(checks, len(legal)), asked, visible)
        found[:, legal] = every.reshape(len(keys), len(legal))
    return found[0] if single else found


def _hashed(ids: Any, schema: Schema) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
    seed = key_rules.seed_of(schema.store_id)
    if schema.ids_are_strings and type(ids) is list and [*map(type, ids)].count(str) == len(ids):
        quick = key_rules.hash_list(ids, seed)
        if quick is not None:
            return quick
    named = normalise_ids(ids, schema.ids_are_strings)      # which says what is wrong, too
    if isinstance(named, StringIds):
        return key_rules.hash_strings(named, seed)
    return key_rules.hash_ints(named), np.zeros(len(named), np.uint32)


def _epochs(epoch: Any) -> Int64s | None:
    if epoch is None:
        return None
    if isinstance(epoch, range):
        epoch = list(epoch)
    array = np.asarray(epoch)
    if array.dtype.kind == "O" and all(isinstance(one, int) for one in array.flat):
        array = np.full(array.shape, -1)        # ints beyond int64: no row is there
    if (array.dtype.kind not in "iu" and array.size) or array.ndim > 1:
        raise TypeError(f"epoch is None, one int or a list of ints, not {epoch!r}")
    return array.astype(np.int64)


def _check_missing(column: Column, missing: str) -> None:
    if missing != "nan":
        raise ValueError(f'missing is "raise" or "nan", not {missing!r}')
    if not is_float(column.field.dtype):
        raise ValueError(f'the field {column.field.name!r} is {column.field.dtype}, which has no NaN: ask '
                         "view.find(ids) which rows are there (-1: absent) and get those")


def _refuse_too_much(flat: Int64s, column: Column) -> None:
    nbytes = len(flat) * column.field.row_bytes
    if nbytes > 2**28 and nbytes > 0.8 * available_memory():
        raise MemoryError(f"{len(flat):,} rows of {column.field.name!r} are {nbytes / 2**30:.1f} GiB, more than 80% of "
                          "the available memory; ask for fewer ids at a time")


def _explain(index: KeyIndex, schema: Schema, names: Column, rows: Rows, ids: Any, epoch: Any,
             addresses: Int64s) -> str:
    """Which keys are missing, and what may have been meant."""
    items = [ids] if is_one(ids) else _listed(normalise_ids(ids, schema.ids_are_strings))
    epochs = _epochs(epoch)
    table = addresses.reshape(len(items), -1)
    lost = np.flatnonzero((table < 0).any(axis=1))
    first = items[int(lost[0])]
    there = epochs is not None and find_rows(index, schema, rows, [first], None)[0] >= 0
    more = "" if len(lost) <= 3 else f" and {len(lost) - 3:,} more"
    shown = ", ".join(repr(items[row]) for row in lost[:3].tolist()) + more
    what = f"no row for the id{'s' if len(lost) > 1 else ''} {shown}"
    if there and epochs is not None:
        column = int(np.flatnonzero(table[int(lost[0])] < 0)[0])
        known = index.epochs()
        span = f"{known[0]}..{known[-1]}" if len(known) > 1 else f"{known[0]} only"
        return f"{what} at epoch {int(epochs.reshape(-1)[column])}; the epochs are {span}"
    near = _near(first, names, rows)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return what + (hint or '; write missing="nan" to get NaN rows, or ask view.find(ids) which are there')


def _listed(ids: StringIds | Int64s) -> list[Any]:
    return ids.to_list() if isinstance(ids, StringIds) else ids.tolist()


def _near(item: Any, names: Column, rows: Rows) -> list[Any]:
    """Ids like this one, of a bounded sample of the rows."""
    if not isinstance(item, str):
        return []
    sample: Array = names.take(rows.addresses(np.arange(min(len(rows), NEAR_SAMPLE))))
    return difflib.get_close_matches(item, set(sample.tolist()), n=2, cutoff=0.75)
