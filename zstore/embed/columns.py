"""What a row holds beside its vector: an id of the store's kind, and the kept fields, each of one type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from zstore._typing import Array
from zstore.embed.types import Item

MAX_ID_BYTES = 1024
MAX_STRING_BYTES = 2**20
TYPES: dict[str, Any] = {"int64": np.int64, "float64": np.float64, "bool": np.bool_, "string": np.dtypes.StringDType()}
MISSING: dict[str, Any] = {"int64": -2**63, "float64": float("nan"), "bool": False, "string": ""}
RESERVED = ("vectors", "ids", "epoch", "text_hash", "row", "rows", "zstore")
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,18}")            # an integer as it is written one way only
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


class Misfit(ValueError):
    """A value that the store can't hold; the message is the reason that the ledger keeps."""


def typed(name: str) -> tuple[str, str | None]:
    """A column's name and the type that is asked for: "year:float64" is year, to be kept as float64."""
    plain, colon, kind = name.rpartition(":")
    return (plain, kind) if colon and plain and kind in TYPES else (name, None)


class Columns:
    """The types of ids and kept fields: the store's, those asked for, else those of the first items. ``strings`` says of which
    kind ids are."""

    def __init__(self, names: Sequence[str], kinds: Mapping[str, str] | None = None, strings: bool | None = None) -> None:
        """``kinds`` may lack some names: these are settled."""
        wrong = [name for name in names if name in RESERVED]
        if wrong:
            raise ValueError(f"keep: {wrong[0]!r} is a field of every store; read it under another name")
        self.names = tuple(dict.fromkeys(names))
        self.strings = strings
        self._kinds = {name: kind for name, kind in (kinds or {}).items() if name in self.names}
        self._lost: dict[str, tuple[int, str, Any]] = {}        # values that did not fit: how many, where and what first

    def settle(self, items: Sequence[Item]) -> None:
        """Look at the first items, where nothing else says it."""
        if self.strings is None and items:
            self.strings = not all(_is_int(item.id) for item in items)
        if items:
            for name in self.names:
                self._kinds.setdefault(name, _kind([item.fields.get(name) for item in items]))

    def id_of(self, item: Item) -> Any:
        """The item's id as the store keeps it: of integers "17" is 17, of strings 17 is "17"; Misfit."""
        if not self.strings:
            given = int(item.id) if isinstance(item.id, str) and _WHOLE.fullmatch(item.id) else item.id
            if not _is_int(given):
                raise Misfit(f"the id is {item.id!r:.80}, and this store's ids are integers; a new store takes both, as "
                             "strings, with id='NAME:string' (--id NAME:string), NAME being the column of the ids")
            if not -2**63 <= given < 2**63:
                raise Misfit(f"the id {given!r:.80} does not fit in 64 bits; a new store takes it as a string, with "
                             "id='NAME:string' (--id NAME:string), NAME being the column of the ids")
            return int(given)
        if not isinstance(item.id, str) and not _is_int(item.id):
            raise Misfit(f"the id is {item.id!r:.80} of type {type(item.id).__name__}; an id is a string or an integer")
        text = str(item.id)
        _check_string("the id", text, MAX_ID_BYTES)
        if not text:
            raise Misfit("the id is empty")
        return text

    def values_of(self, item: Item) -> tuple[Any, ...]:
        """The item's kept fields, in the order of ``names``. One that does not fit is that type's ``MISSING``, and counted: a
        field costs no item its vector."""
        return tuple([self._value(name, item) for name in self.names])

    def warning(self) -> str | None:
        """What did not fit so far, in one sentence that names the way out; None if nothing."""
        if not self._lost:
            return None
        said = []
        for name, (count, place, value) in self._lost.items():
            kind = self._kinds[name]
            other = _other(kind, value)
            way = f"; a new store holds it with keep={name}:{other} (--keep {name}:{other})" if other else ""
            said.append(f"{name!r} of {count:,} items is not {kind} and was stored as {MISSING[kind]!r} "
                        f"({place or 'the first'} has {value!r:.60}{way})")
        return f"the field {', '.join(said)}; their vectors are there"

    def arrays(self, rows: Sequence[tuple[Any, ...]]) -> dict[str, Array]:
        """The kept fields of some rows, (n,) each."""
        return {name: np.array([row[at] for row in rows], TYPES[self._kinds[name]]) for at, name in enumerate(self.names)}

    def _value(self, name: str, item: Item) -> Any:
        kind, value = self._kinds[name], item.fields.get(name)
        try:
            return _fitted(kind, value)
        except Misfit:
            count, place, first = self._lost.get(name, (0, item.place, value))
            self._lost[name] = count + 1, place, first
            return MISSING[kind]


def _is_int(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))


def _is_number(value: Any) -> bool:
    return _is_int(value) or isinstance(value, (float, np.floating))


def _kind(values: list[Any]) -> str:
    """A type that holds them all, and what is likely to come: a later number may be a fraction or missing, so that whole
    numbers are float64 too, but for those that float64 would round. A missing number is NaN, a missing string is empty."""
    given = [value for value in values if value is not None]
    if given and len(given) == len(values) and all(isinstance(value, (bool, np.bool_)) for value in given):
        return "bool"
    if not given or not all(map(_is_number, given)):
        return "string"
    whole = [int(value) for value in given if _is_int(value)]
    if all(-2**53 <= value <= 2**53 for value in whole):
        return "float64"
    return "int64" if len(whole) == len(values) and all(-2**63 <= value < 2**63 for value in whole) else "string"


def _fitted(kind: str, value: Any) -> Any:
    if kind == "string":
        text = "" if value is None else value if isinstance(value, str) else str(value)
        _check_string("the field", text, MAX_STRING_BYTES)
        return text
    if isinstance(value, str):
        value = _read(kind, value.strip())
    if kind == "float64":
        if value is None:
            return MISSING[kind]
        if isinstance(value, (bool, np.bool_)) or (_is_number(value) and (not _is_int(value) or abs(value) <= 2**53)):
            return float(value)
    elif kind == "int64":
        if isinstance(value, (float, np.floating)) and float(value).is_integer():
            value = int(value)
        if _is_int(value) and -2**63 <= value < 2**63:
            return int(value)
    elif isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise Misfit(f"{value!r:.80} is not {kind}")


def _read(kind: str, text: str) -> Any:
    """What a CSV's cell says. The text itself where that is nothing of the kind."""
    if not text:
        return None
    if kind == "bool":
        return {"true": True, "false": False}.get(text.lower(), text)
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text


def _other(kind: str, value: Any) -> str:
    """The type that would have held the value; "" for a string that none holds."""
    for other in ("float64", "int64", "string"):
        try:
            if other != kind:
                _fitted(other, value)
                return other
        except Misfit:
            pass
    return ""


def _check_string(what: str, text: str, most: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise Misfit(f"{what} holds a lone surrogate") from None
    if "\0" in text:
        raise Misfit(f"{what} holds a NUL character")
    if size > most:
        raise Misfit(f"{what} is {size:,} bytes long, and {most:,} are the most")


def agreed(url: str, keep: Sequence[str], made_here: Mapping[str, str], held: Mapping[str, tuple[str, Any]] | None,
           id: str = "id") -> Columns:
    """The columns of a run that keeps these fields, and makes those of ``made_here`` (name to type), beside the vectors: the
    store's, where there is one. ``held``: its fields, by name. ``keep`` and ``id`` are names, or names with types as ``typed``
    reads them. ValueError naming both where the store has others."""
    asked = {**dict(map(typed, keep)), **made_here}
    kinds = {name: kind for name, kind in asked.items() if kind is not None}
    column, id_kind = typed(id)
    if id_kind not in (None, "int64", "string"):
        raise ValueError(f"id: {id!r} is no type of ids; they are {column}:string or {column}:int64")
    if held is None:
        return Columns([*asked], kinds, None if id_kind is None else id_kind == "string")
    fields = {name: kind for name, (kind, _) in held.items() if name not in RESERVED}
    ids = "string" if held["ids"][0] == "string" else "int64"
    if id_kind not in (None, ids):
        raise ValueError(f"the ids of {url} are {ids}, and this run's would be {id_kind}: leave the type out, or write to "
                         "another store")
    agree = set(asked) == set(fields) if keep else bool(made_here) == ({"parent", "offset"} <= set(fields))
    if not agree:
        raise ValueError(f"{url} keeps {_listed(fields)}, and this run would keep {_listed(asked)}: keep the same, or write to "
                         "another store")
    differ = [name for name, kind in kinds.items() if fields[name] != kind and name not in made_here]
    if differ:
        name = differ[0]
        raise ValueError(f"{url} keeps {name!r} as {fields[name]}, and this run would keep it as {kinds[name]}: leave the type "
                         "out, or write to another store")
    return Columns(list(fields), fields, ids == "string")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "no fields beside the vectors"
