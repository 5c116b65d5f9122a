"""The options of a Writer: looked at before anything happens, and held against the store that they meet."""

from __future__ import annotations

import json
import operator
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zstore.errors import Corrupt
from zstore.format import dtypes
from zstore.format.checksum import MAX_JSON_DEPTH, parse_json
from zstore.format.codecs import DEFAULT, PRESETS
from zstore.format.keys import pack_strings
from zstore.format.schema import (
    EPOCH,
    IDS,
    MAX_FIELDS,
    MAX_SHARD_BYTES,
    MAX_SHARD_ROWS,
    VECTORS,
    Schema,
    check_field_name,
    default_rows_per_shard,
    make_field,
)
from zstore.writing.door import first_batch, first_field

MAX_JSON = 2**20
DEPTH_AROUND = 4            # the deepest place in a record where a caller's JSON stands
FieldSpec = tuple[str, tuple[int, ...], Any]


@dataclass(frozen=True)
class Options:
    """What the caller asked for; None where the store, or the first batch, decides."""

    dim: int | None = None
    dtype: str | None = None
    id_dtype: str | None = None
    codec: str | None = None
    fields: dict[str, FieldSpec] | None = None
    attrs: dict[str, Any] | None = None
    rows_per_shard: int | None = None

    @classmethod
    def parse(cls, *, dim: Any, dtype: Any, id_dtype: Any, codec: Any, fields: Any, attrs: Any,
              rows_per_shard: Any) -> Options:
        """Raises TypeError or ValueError that names the option and what it may be."""
        dim = None if dim is None else whole_number("dim", dim, 1, MAX_SHARD_BYTES)
        rows_per_shard = None if rows_per_shard is None else whole_number("rows_per_shard", rows_per_shard, 1, MAX_SHARD_ROWS)
        if codec is not None and codec not in PRESETS:
            raise ValueError(f"codec must be one of {', '.join(map(repr, PRESETS))}, not {codec!r}")
        return cls(dim, _vector_dtype(dtype), _id_dtype(id_dtype), codec, _fields(fields), check_attrs(attrs),
                   rows_per_shard)

    def check(self, schema: Schema, url: str) -> None:
        """ValueError naming both where these contradict the store."""
        def differ(option: str, asked: Any, held: Any) -> None:
            raise ValueError(f"{option}={asked!r} contradicts {url}, which holds {held!r}; leave the option out, or write "
                             "to a new store")
        if self.dim is not None and schema.vectors.shape != (self.dim,):
            differ("dim", self.dim, schema.vectors.shape)
        for option, asked, held in (("dtype", self.dtype, schema.vectors.dtype), ("codec", self.codec, schema.codec),
                                    ("id_dtype", self.id_dtype, schema.fields[IDS].dtype),
                                    ("rows_per_shard", self.rows_per_shard, schema.rows_per_shard)):
            if asked is not None and asked != held:
                differ(option, asked, held)
        for key, value in (self.attrs or {}).items():
            if key in schema.attrs and schema.attrs[key] != value:
                differ(f"attrs[{key!r}]", value, schema.attrs[key])
        if self.fields is not None:
            held_fields = {name: (f.dtype, f.shape) for name, f in schema.user_fields.items() if not f.optional}
            asked_fields = {name: spec[:2] for name, spec in self.fields.items()}
            extra = {name: spec for name, spec in asked_fields.items()
                     if name not in schema.user_fields or (schema.fields[name].dtype, schema.fields[name].shape) != spec}
            if extra or set(held_fields) - set(asked_fields):
                differ("fields", asked_fields, held_fields)

    def schema_from(self, ids: Any, vectors: Any, given: Mapping[str, Any]) -> Schema | None:
        """The schema of a new store that begins with this batch; None for an empty batch."""
        first = first_batch(ids, vectors, id_dtype=self.id_dtype, dtype=self.dtype, dim=self.dim)
        if first is None:
            return None
        id_dtype, dtype, shape = first
        if self.fields is not None:
            specs = self.fields
        else:
            specs = {name: (*first_field(name, value, len(ids)), None) for name, value in given.items()}
        rows = self.rows_per_shard or self._default_rows(dtype, shape, specs)
        fields = {VECTORS: make_field(VECTORS, dtype, shape, rows), IDS: make_field(IDS, id_dtype, (), rows),
                  EPOCH: make_field(EPOCH, "int32", (), rows, fill=-1)}
        for name, (kind, per_row, fill) in specs.items():
            fields[name] = make_field(name, kind, per_row, rows, fill=fill)
        if len(fields) > MAX_FIELDS:
            raise ValueError(f"{len(fields)} fields are too many; a store has at most {MAX_FIELDS}")
        for f in fields.values():
            if f.row_bytes * rows > MAX_SHARD_BYTES:
                raise ValueError(f"{rows} rows of the field {f.name!r} are {f.row_bytes * rows} bytes; a shard holds at most "
                                 f"{MAX_SHARD_BYTES}: pass a smaller rows_per_shard")
        return Schema(secrets.token_hex(16), rows, self.codec or DEFAULT, fields, dict(self.attrs or {}))

    def _default_rows(self, dtype: str, shape: tuple[int, ...], specs: Mapping[str, FieldSpec]) -> int:
        # The widest field decides: two views of a row, or a second layer, are vectors too.
        widest = max(make_field(VECTORS, kind, per_row, 1).row_bytes
                     for kind, per_row in [(dtype, shape), *((s[0], s[1]) for s in specs.values())])
        return default_rows_per_shard(widest)


def whole_number(name: str, value: Any, least: int, most: int) -> int:
    """An option as an int, numpy's too; ValueError that names it otherwise."""
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if not least <= number <= most:
        raise ValueError(f"{name} must be an integer from {least} to {most}, not {value!r}")
    return number


def field_spec(name: str, spec: Any) -> FieldSpec:
    """A field's declaration: a dtype, ``(dtype, shape)``, or a mapping with ``dtype``, ``shape`` and ``fill``."""
    check_field_name(name)
    fill = None
    if isinstance(spec, Mapping):
        unknown = set(spec) - {"dtype", "shape", "fill"}
        if unknown or "dtype" not in spec:
            raise ValueError(f"the field {name!r} is declared by dtype, shape and fill, not {sorted(spec)}")
        dtype, shape, fill = spec["dtype"], spec.get("shape", ()), spec.get("fill")
    elif isinstance(spec, tuple) and len(spec) == 2:
        dtype, shape = spec
    else:
        dtype, shape = spec, ()
    kind = dtypes.name_of(dtype)
    if kind is None:
        raise ValueError(f"the field {name!r} can't be of dtype {dtype!r}; it may be {', '.join(dtypes.NAMES)}")
    given = tuple(shape) if hasattr(shape, "__iter__") else (shape,)
    per_row = tuple(whole_number(f"the shape of the field {name!r}", n, 1, MAX_SHARD_BYTES) for n in given)
    if per_row and kind == dtypes.STRING:
        raise ValueError(f"the field {name!r} can't be of shape {per_row!r} per row: a string is one per row")
    return kind, per_row, fill if fill is None else check_fill(name, kind, fill)


def check_fill(name: str, dtype: str, fill: Any) -> Any:
    """The fill as a plain Python value of the field's type; ValueError otherwise."""
    try:
        if dtype == dtypes.STRING:
            return pack_strings([fill]).to_list()[0]
        value = dtypes.numpy_dtype(dtype).type(fill)
        if value == value and value != fill:
            raise ValueError
        return float(value) if dtypes.is_float(dtype) else value.item()
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"the fill {fill!r} is not a {dtype}, the type of the field {name!r}") from None


def check_attrs(attrs: Any) -> dict[str, Any] | None:
    """Attributes are JSON; ``zstore`` is ours."""
    if attrs is None:
        return None
    if not isinstance(attrs, Mapping) or not all(isinstance(key, str) for key in attrs):
        raise TypeError("attrs must be a mapping with string keys")
    if "zstore" in attrs:
        raise ValueError("the attribute 'zstore' is reserved; choose another name")
    return dict(check_json(dict(attrs), "attrs"))


def check_json(value: Any, what: str) -> Any:
    """The value as JSON would give it back; ValueError where it can't."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        if len(text) > MAX_JSON:
            raise ValueError(f"{len(text)} bytes are more than {MAX_JSON}")
        return parse_json(b"[" * DEPTH_AROUND + text + b"]" * DEPTH_AROUND, what)[0][0][0][0]
    except Corrupt:
        raise ValueError(f"{what} is nested too deeply, at most {MAX_JSON_DEPTH - DEPTH_AROUND} levels") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{what} must be JSON (strings, finite numbers, lists, mappings): {error}") from None


def _vector_dtype(dtype: Any) -> str | None:
    if dtype is None:
        return None
    name = dtypes.name_of(dtype)
    if name not in dtypes.VECTOR_NAMES:
        raise ValueError(f"dtype must be one of {', '.join(dtypes.VECTOR_NAMES)}, not {dtype!r}")
    return name


def _id_dtype(id_dtype: Any) -> str | None:
    if id_dtype is None:
        return None
    name = dtypes.name_of(int if id_dtype is int else id_dtype)
    if name not in ("int64", dtypes.STRING):
        raise ValueError(f"id_dtype must be 'int64' or 'str', not {id_dtype!r}")
    return name


def _fields(fields: Any) -> dict[str, FieldSpec] | None:
    if fields is None:
        return None
    if not isinstance(fields, Mapping):
        raise TypeError("fields must map names to dtypes, or to (dtype, shape)")
    return {name: field_spec(name, spec) for name, spec in fields.items()}
