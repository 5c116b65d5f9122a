"""Adding a field to the rows there are: the whole column at once, under a path that was never used."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np

from zstore.commits.claims import claim_path
from zstore.commits.publish import Delta, publish
from zstore.errors import Conflict, InDoubt, StaleWriter
from zstore.format.extents import Extents
from zstore.format.keys import Joined, pack_strings
from zstore.format.layout import CLAIMS, shard_name
from zstore.format.record import Record
from zstore.format.schema import MAX_FIELDS, MAX_SHARD_BYTES, Field, Schema, check_field_name, make_field
from zstore.shards.build import FieldBody
from zstore.writing.committer import Committer
from zstore.writing.door import first_field, read_field
from zstore.writing.options import check_fill


def add_column(core: Committer, name: str, values: Any, fill: Any) -> Record:
    """Commit what is pending, write the column for head's rows, publish a schema that has it, begin a fresh shard.

    ValueError or TypeError before anything is written."""
    with core.lock:
        try:
            return _add(core, name, values, fill)
        except (StaleWriter, InDoubt) as error:
            core.end(error)         # or the next commit might follow a schema whose column its shards lack
            raise


def _add(core: Committer, name: str, values: Any, fill: Any) -> Record:
    check_field_name(name)
    if name in core.schema.fields:
        raise ValueError(f"the store has a field {name!r} already; append to it, or choose another name")
    if len(core.schema.fields) >= MAX_FIELDS:
        raise ValueError(f"the store has {MAX_FIELDS} fields, the most that it may have")
    head = core.commit()
    if head.rows == 0:
        raise ValueError("the store has no rows yet: pass the field with the first batch")
    field, column = _read_column(core.schema, name, values, fill, head.rows)
    with core.pipeline.held():
        if not core.pipeline.leave_shard():
            raise Conflict("rows were appended while a field was being added; pause the loop and call add_field again")
        record = _write_and_publish(core, head, field, column)
    core.bring_projection()
    return record


def _read_column(schema: Schema, name: str, values: Any, fill: Any, rows: int) -> tuple[Field, Any]:
    dtype, shape = first_field(name, values, rows)
    value = None if fill is None else check_fill(name, dtype, fill)
    field = make_field(name, dtype, shape, schema.rows_per_shard, fill=value, optional=True)
    if field.row_bytes * schema.rows_per_shard > MAX_SHARD_BYTES:
        raise ValueError(f"a shard of the field {name!r} would be {field.row_bytes * schema.rows_per_shard} bytes; at most "
                         f"{MAX_SHARD_BYTES}")
    column = read_field(field, values, rows)
    if isinstance(column, Joined):
        return field, column.packed
    if column.ndim == 0:
        column = np.broadcast_to(column, (rows,))
    return field, column


def _write_and_publish(core: Committer, head: Record, field: Field, column: Any) -> Record:
    storage, session, tag = core.log.storage, core.session.info, core.tag
    path = claim_path(storage, session, field.name)
    field = make_field(field.name, field.dtype, field.shape, core.schema.rows_per_shard, path=path, fill=field.fill,
                       optional=True)
    schema = core.schema.with_field(field)
    storage.make_folders([path])
    per_shard = schema.rows_per_shard
    for shard in sorted({s for start, count in head.extents
                         for s in range(start // per_shard, (start + count - 1) // per_shard + 1)}):
        parts = _shard_parts(schema, field, head.extents, shard, column, session.commit_id)
        storage.rewrite(storage.draft(parts, tag), shard_name(field, shard), None)
    storage.sync([path, CLAIMS])
    delta = Delta(secrets.token_hex(16), next=core.pipeline.shards.next, definition=schema)
    record = publish(core.log, session, lambda parent: _only_if(parent, head, delta.apply(
        parent, session, 0, parent.superseded)))
    core.take_schema(schema)
    return record


def _only_if(parent: Record, head: Record, record: Record) -> Record:
    if parent.version != head.version:
        raise Conflict("the store changed while a field was being added; call add_field again")
    return record


def _shard_parts(schema: Schema, field: Field, extents: Extents, shard: int, column: Any, session: str) -> Any:
    """The object of one shard: the column's values at its committed addresses, the fill in the holes between."""
    per_shard = schema.rows_per_shard
    first = shard * per_shard
    inside = extents & Extents([(first, per_shard)])
    covered = inside.end - first
    rows = extents.rows(inside.addresses())
    low, high = int(rows[0]), int(rows[-1]) + 1
    places = inside.addresses() - first
    body = FieldBody(schema, field)
    if field.is_string:
        texts = [str(field.fill)] * covered
        for place, text in zip(places.tolist(), column.slice(low, high).to_list(), strict=True):
            texts[place] = text
        data: Any = pack_strings(texts)
    else:
        data = np.full((covered, *field.shape), field.fill, field.numpy_dtype)
        data[places] = column[low:high]
    whole = covered // field.chunk_rows * field.chunk_rows
    if whole:
        body.add(0, data, whole)
    rest = data.slice(whole, covered) if field.is_string else data[whole:]
    return body.finish(covered, schema.store_id, session, shard, body.add_partial(whole, rest, covered - whole))
