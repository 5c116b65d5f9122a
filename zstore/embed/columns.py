"""What a row holds beside its vector: an id of the store's kind, and the kept fields, each of one type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from zstore._typing import Array
from zstore.embed.types import Item

MAX_ID_BYTES = 1024
MAX_STRING_BYTES = 2**20
TYPES: dict[str, Any] = {"int64": np.int64, "float64": np.float64, "bool": np.bool_, "string": np.dtypes.StringDType()}
RESERVED = ("vectors", "ids", "epoch", "text_hash", "row", "rows", "zstore")


class Misfit(ValueError):
    """A value that the store can't hold; the message is the reason that the ledger keeps."""


class Columns:
    """The types of ids and kept fields: the store's, else those of the first items. ``strings`` says of which kind ids are."""

    def __init__(self, names: Sequence[str], kinds: Mapping[str, str] | None = None, strings: bool | None = None) -> None:
        wrong = [name for name in names if name in RESERVED]
        if wrong:
            raise ValueError(f"keep: {wrong[0]!r} is a field of every store; read it under another name")
        self.names = tuple(dict.fromkeys(names))
        self.strings = strings
        self._kinds = None if kinds is None else {name: kinds[name] for name in self.names}

    def settle(self, items: Sequence[Item]) -> None:
        """Look at the first items, where the store says nothing."""
        if self.strings is None and items:
            self.strings = not all(_is_int(item.id) for item in items)
        if self._kinds is None and items:
            self._kinds = {name: _kind([item.fields.get(name) for item in items]) for name in self.names}

    def id_of(self, item: Item) -> Any:
        """The item's id as the store keeps it; Misfit."""
        if not self.strings:
            if not _is_int(item.id):
                raise Misfit(f"the id is {item.id!r:.80}, and this store's ids are integers")
            if not -2**63 <= item.id < 2**63:
                raise Misfit(f"the id {item.id!r:.80} does not fit in 64 bits")
            return int(item.id)
        if not isinstance(item.id, str) and not _is_int(item.id):
            raise Misfit(f"the id is {item.id!r:.80} of type {type(item.id).__name__}; an id is a string or an integer")
        text = str(item.id)
        _check_string("the id", text, MAX_ID_BYTES)
        if not text:
            raise Misfit("the id is empty")
        return text

    def values_of(self, item: Item) -> tuple[Any, ...]:
        """The item's kept fields, in the order of ``names``; Misfit."""
        kinds = self._kinds or {}
        return tuple(_fitted(name, kinds[name], item.fields.get(name)) for name in self.names)

    def arrays(self, rows: Sequence[tuple[Any, ...]]) -> dict[str, Array]:
        """The kept fields of some rows, (n,) each."""
        kinds = self._kinds or {}
        return {name: np.array([row[at] for row in rows], TYPES[kinds[name]]) for at, name in enumerate(self.names)}


def _is_int(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))


def _is_number(value: Any) -> bool:
    return _is_int(value) or isinstance(value, (float, np.floating))


def _kind(values: list[Any]) -> str:
    """The narrowest type that holds them all. A missing number is NaN, a missing string is empty."""
    given = [value for value in values if value is not None]
    if given and all(isinstance(value, (bool, np.bool_)) for value in given) and len(given) == len(values):
        return "bool"
    if given and all(map(_is_int, given)) and len(given) == len(values):
        return "int64"
    return "float64" if given and all(map(_is_number, given)) else "string"


def _fitted(name: str, kind: str, value: Any) -> Any:
    if kind == "string":
        text = "" if value is None else value if isinstance(value, str) else str(value)
        _check_string(f"the field {name!r}", text, MAX_STRING_BYTES)
        return text
    if kind == "float64" and (value is None or _is_number(value)):
        return float("nan") if value is None else float(value)
    if kind == "int64" and _is_int(value) and -2**63 <= value < 2**63:
        return int(value)
    if kind == "bool" and isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise Misfit(f"the field {name!r} is {value!r:.80}, and the store keeps it as {kind}")


def _check_string(what: str, text: str, most: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise Misfit(f"{what} holds a lone surrogate") from None
    if "\0" in text:
        raise Misfit(f"{what} holds a NUL character")
    if size > most:
        raise Misfit(f"{what} is {size:,} bytes long, and {most:,} are the most")


def agreed(url: str, keep: Sequence[str], made_here: Sequence[str], held: Mapping[str, tuple[str, Any]] | None) -> Columns:
    """The columns of a run that keeps these fields, and makes those, beside the vectors: the store's, where there is one.
    ``held``: its fields, by name. ValueError naming both where it keeps others."""
    names = (*keep, *made_here)
    if held is None:
        return Columns(names)
    fields = {name: kind for name, (kind, _) in held.items() if name not in RESERVED}
    agree = set(names) == set(fields) if keep else set(made_here) == {"parent", "offset"} & set(fields)
    if not agree:
        raise ValueError(f"{url} keeps {_listed(fields)}, and this run would keep {_listed(names)}: keep the same, or write to "
                         "another store")
    return Columns(list(fields), fields, held["ids"][0] == "string")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "no fields beside the vectors"
