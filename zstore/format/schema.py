"""The schema: which fields a store has and how their rows lie in shards and chunks. Held by record 0, or a later one."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from zstore._typing import Json
from zstore.errors import FormatError
from zstore.format import dtypes
from zstore.format.codecs import PRESETS, ChunkCodec, chunk_codec

VECTORS, IDS, EPOCH = "vectors", "ids", "epoch"
BUILT_IN = (VECTORS, IDS, EPOCH)
RESERVED = ("row", "rows", "zstore", "_zstore", "zarr.json")

SHARD_BYTES = 16 * 2**20       # of the vectors, before compression
MAX_SHARD_BYTES = 2**30
MAX_SHARD_ROWS = 2**24
DEFAULT_MAX_ROWS = 2**18       # keeps a tail's scalar fields small where vectors are tiny
CHUNK_BYTES = 32 * 2**10       # one cold row costs one small decode
CHUNK_ROWS = 1024              # at most, scalars and strings
TILE = 16 * 2**10              # raw shards lie side by side in a mapping at this grain
HUGE_TILE = 2 * 2**20          # at this one the system can map them by huge pages
MAX_ROW_BYTES = 64 * 2**20
MAX_STRING_BYTES = 2**20       # one value of a user's string field
MAX_FIELDS = 1024
MAX_SHARDS = 2**24             # of one field; what is kept per shard stays within 128 MiB
MAX_CHUNK_BYTES = MAX_ROW_BYTES     # what a reader decodes at once, before it knows that a byte of it is there
MAX_AXES = 63                  # of one row; with the rows' own, numpy's 64
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_\-]{0,47}\Z")


@dataclass(frozen=True)
class Field:
    """One array of the store: ``shape`` is that of one row, ``path`` its folder in the group."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunk_rows: int
    path: str
    fill: Any = field(compare=False)
    optional: bool = False      # added later: an append may leave it out and stores its fill

    @property
    def row_bytes(self) -> int:
        """Bytes of one row; 0 for strings."""
        return dtypes.itemsize(self.dtype) * math.prod(self.shape)

    @property
    def is_string(self) -> bool:
        return self.dtype == dtypes.STRING

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        return dtypes.numpy_dtype(self.dtype)

    def to_json(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "shape": list(self.shape), "chunk_rows": self.chunk_rows, "path": self.path,
                "fill": dtypes.fill_json(self.fill), "optional": self.optional}


@dataclass(frozen=True)
class Schema:
    """Fields by name, and what all of them share. Immutable; a changed one is a new record's."""

    store_id: str
    rows_per_shard: int
    codec: str
    fields: dict[str, Field]
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def vectors(self) -> Field:
        return self.fields[VECTORS]

    @property
    def ids_are_strings(self) -> bool:
        return self.fields[IDS].is_string

    @property
    def user_fields(self) -> dict[str, Field]:
        return {name: f for name, f in self.fields.items() if name not in BUILT_IN}

    def chunks(self, f: Field) -> int:
        """Inner chunks of one shard of this field."""
        return self.rows_per_shard // f.chunk_rows

    def chunk_codec(self, f: Field) -> ChunkCodec:
        return chunk_codec(self.codec, f.dtype)

    def is_mappable(self, f: Field) -> bool:
        """Full shards of this field can lie side by side in one mapping (where the page is 16 KiB or less)."""
        return bool(f.shape) and self.chunk_codec(f).fixed and self.rows_per_shard * f.row_bytes % TILE == 0

    def with_field(self, f: Field) -> Schema:
        return replace(self, fields={**self.fields, f.name: f})

    def to_json(self) -> dict[str, Any]:
        return {"rows_per_shard": self.rows_per_shard, "codec": self.codec,
                "fields": {name: f.to_json() for name, f in self.fields.items()}, "attributes": self.attrs}

    @classmethod
    def from_json(cls, store_id: str, document: Json, name: str) -> Schema:
        """The schema of a record's ``definition``; ``FormatError`` naming the record where a number is absurd."""
        try:
            rows, codec = document["rows_per_shard"], document["codec"]
            if len(document["fields"]) > MAX_FIELDS:
                raise ValueError(f"{len(document['fields'])} fields, and {MAX_FIELDS} are the most")
            fields = {key: _field_from_json(key, value) for key, value in document["fields"].items()}
            schema = cls(store_id, rows, codec, fields, dict(document["attributes"]))
            schema._validate()
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise FormatError(f"{name}: the schema is not one of format 1: {error}") from None
        return schema

    def _validate(self) -> None:
        if self.codec not in PRESETS:
            raise ValueError(f"unknown codec {self.codec!r}")
        if type(self.rows_per_shard) is not int or not 1 <= self.rows_per_shard <= MAX_SHARD_ROWS:
            raise ValueError(f"rows_per_shard {self.rows_per_shard!r}")
        for name in BUILT_IN:
            if name not in self.fields:
                raise ValueError(f"no field {name!r}")
        ids, epoch = self.fields[IDS], self.fields[EPOCH]
        if ids.dtype not in ("int64", dtypes.STRING) or epoch.dtype != "int32" or ids.shape or epoch.shape:
            raise ValueError(f"ids of {ids.dtype} and epoch of {epoch.dtype}")
        if self.vectors.dtype not in dtypes.VECTOR_NAMES:
            raise ValueError(f"vectors of {self.vectors.dtype}")
        for f in self.fields.values():
            if (f.row_bytes * self.rows_per_shard > MAX_SHARD_BYTES or self.rows_per_shard % f.chunk_rows
                    or f.row_bytes * f.chunk_rows > MAX_CHUNK_BYTES or (f.is_string and f.chunk_rows > CHUNK_ROWS)):
                raise ValueError(f"the geometry of field {f.name!r}")
        if len({f.path for f in self.fields.values()}) < len(self.fields):
            raise ValueError("two fields share a folder")


def _field_from_json(name: str, document: Json) -> Field:
    dtype, shape, rows, path = document["dtype"], document["shape"], document["chunk_rows"], document["path"]
    if not _NAME.match(name):
        raise ValueError(f"the field name {name!r:.80}")
    if dtype not in dtypes.NAMES:
        raise ValueError(f"field {name!r} has the unknown dtype {dtype!r:.80}")
    if type(shape) is not list or len(shape) > MAX_AXES or (shape and dtype == dtypes.STRING) or not all(
            type(n) is int and 0 < n <= MAX_SHARD_BYTES for n in [*shape, rows]):
        raise ValueError(f"the geometry of field {name!r}")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_\-]{0,47}(\.[0-9]{1,6})?", path):
        raise ValueError(f"field {name!r} has the path {path!r:.80}")
    # A text "NaN" is a text; only numbers are written as words.
    fill = document["fill"] if dtype == dtypes.STRING else dtypes.fill_from_json(document["fill"])
    _check_fill(dtype, fill)
    return Field(name, dtype, tuple(shape), rows, path, fill, bool(document["optional"]))


def _check_fill(dtype: str, fill: object) -> None:
    """ValueError for a fill that is no value of the type; it is stored where an append leaves the field out."""
    if dtype == dtypes.STRING:
        good = isinstance(fill, str) and len(fill.encode()) <= MAX_STRING_BYTES
    elif dtypes.is_float(dtype):
        good = type(fill) is float or (type(fill) is int and abs(fill) < 2**1023)
    elif dtype == "bool":
        good = type(fill) is bool
    else:
        limits = np.iinfo(dtype)
        good = type(fill) is int and limits.min <= fill <= limits.max
    if not good:
        raise ValueError(f"the fill {fill!r:.40} of a field of {dtype}")


def check_field_name(name: object) -> str:
    """A legal name of a user's field; ValueError or TypeError that says what is legal."""
    if not isinstance(name, str):
        raise TypeError(f"a field's name must be a string, not {type(name).__name__}")
    if name in BUILT_IN or name.lower() in RESERVED:
        raise ValueError(f"the field name {name!r} is reserved; choose another")
    if not _NAME.match(name):
        raise ValueError(f"the field name {name!r} must be 1 to 48 letters, digits, '_' or '-' and begin with a letter")
    return name


def default_rows_per_shard(row_bytes: int) -> int:
    """Rows of about 16 MiB of vectors, a multiple of whole chunks, and of the mapping's grain where that is affordable."""
    rows = min(max(SHARD_BYTES // row_bytes, 1), DEFAULT_MAX_ROWS)
    step = min(CHUNK_ROWS, 1 << (rows.bit_length() - 1))
    for tile, most in ((HUGE_TILE, SHARD_BYTES), (TILE, 2 * SHARD_BYTES)):
        tiled = max(step, tile // math.gcd(tile, row_bytes))
        if tiled * row_bytes <= most and tiled <= DEFAULT_MAX_ROWS:
            step = tiled
            break
    return max(rows // step, 1) * step


def chunk_rows(dtype: str, shape: tuple[int, ...], rows_per_shard: int) -> int:
    """Rows of an inner chunk, within 32 KiB and 1,024 rows: the largest power of two that divides the shard's rows, where
    that is not less than half of the largest divisor. Powers of two keep the blocks that a writer fills small."""
    row_bytes = dtypes.itemsize(dtype) * math.prod(shape)
    most = max(1, min(CHUNK_ROWS, rows_per_shard, CHUNK_BYTES // row_bytes if row_bytes else CHUNK_ROWS))
    largest = next(n for n in range(most, 0, -1) if rows_per_shard % n == 0)
    power = math.gcd(rows_per_shard, 1 << (most.bit_length() - 1))
    return power if 2 * power >= largest else largest


def make_field(name: str, dtype: str, shape: tuple[int, ...], rows_per_shard: int, *, path: str | None = None,
               fill: Any = None, optional: bool = False) -> Field:
    """A field with its default geometry and, unless given, its type's fill."""
    value = dtypes.fill_value(dtype) if fill is None else fill
    return Field(name, dtype, shape, chunk_rows(dtype, shape, rows_per_shard), path or name, value, optional)
