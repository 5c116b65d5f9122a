"""Where objects lie, and the Zarr documents that describe them. Zarr's documents are derived: they can always be made again."""

from __future__ import annotations

import json
from typing import Any

from zstore.format import dtypes
from zstore.format.codecs import zarr_codecs
from zstore.format.extents import Extents
from zstore.format.schema import VECTORS, Field, Schema

ROOT = "zarr.json"
HOME = "_zstore"
COMMITS, CLAIMS, TAGS = f"{HOME}/commits", f"{HOME}/claims", f"{HOME}/tags"
INDEX, LIVE, TMP, DELETES = f"{HOME}/index", f"{HOME}/live", f"{HOME}/tmp", f"{HOME}/deletes"
FOLDERS = (COMMITS, CLAIMS, TAGS, INDEX, LIVE, TMP)


def commit_name(version: int) -> str:
    return f"{COMMITS}/{version:020d}.json"


def claim_name(shard: int) -> str:
    return f"{CLAIMS}/{shard}.json"


def path_claim_name(path: str) -> str:
    return f"{CLAIMS}/{path}.json"


def tag_name(tag: str) -> str:
    return f"{TAGS}/{tag}.json"


def live_name(opened: int) -> str:
    return f"{LIVE}/{opened:020d}"


def run_name(run: str) -> str:
    return f"{INDEX}/{run}"


def deletes_name(text: str) -> str:
    return f"{DELETES}/{text}"


def shard_name(f: Field, shard: int) -> str:
    """The shard's key in Zarr's default encoding with the separator "."; one folder per field."""
    return f"{f.path}/c.{shard}" + ".0" * len(f.shape)


def array_name(f: Field) -> str:
    return f"{f.path}/{ROOT}"


def array_document(schema: Schema, f: Field, length: int) -> dict[str, Any]:
    """The Zarr v3 metadata of one field with this many addresses."""
    return {
        "shape": [length, *f.shape],
        "data_type": f.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [schema.rows_per_shard, *f.shape]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": dtypes.fill_json(f.fill),
        "codecs": [{"name": "sharding_indexed", "configuration": {
            "chunk_shape": [f.chunk_rows, *f.shape],
            "codecs": zarr_codecs(schema.codec, f.dtype),
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "index_location": "end"}}],
        "attributes": {},
        "dimension_names": _dimension_names(f),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def _dimension_names(f: Field) -> list[str]:
    base = "dim" if f.name == VECTORS else f"{f.name}_dim"
    return ["row", *(base if axis == 0 else f"{base}_{axis}" for axis in range(len(f.shape)))]


def root_document(schema: Schema, length: int, version: int, commit_id: str, extents: Extents) -> dict[str, Any]:
    """The group's metadata: the user's attributes, ``zstore``, and every array's document consolidated."""
    ours = {"format": FORMAT, "store_id": schema.store_id, "version": version, "commit_id": commit_id,
            "extents": extents.listed()}
    arrays = {f.path: array_document(schema, f, length) for f in schema.fields.values()}
    return {
        "attributes": {**schema.attrs, "zstore": ours},
        "zarr_format": 3,
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
        "node_type": "group",
    }


def to_bytes(document: dict[str, Any]) -> bytes:
    """A Zarr document as bytes, the same for the same document."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode() + b"\n"


FORMAT = "1.0"
