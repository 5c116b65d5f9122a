"""One shard of all fields while rows come in: what is encoded so far, and the objects that it becomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from zstore._typing import Array, Buffer
from zstore.format.dtypes import is_float
from zstore.format.layout import shard_name
from zstore.format.record import SessionInfo
from zstore.format.schema import VECTORS, Schema
from zstore.shards.build import FieldBody
from zstore.shards.pieces import Pieces
from zstore.shards.read import open_shard
from zstore.storage.base import Storage
from zstore.writing.ahead import Ahead
from zstore.writing.blocks import Block


class OpenShard:
    """The bodies of all fields of one claimed shard. ``rows`` counts from the shard's first row."""

    def __init__(self, schema: Schema, session: SessionInfo, number: int, pieces: Pieces, ahead: Ahead) -> None:
        self.schema = schema
        self._ahead = ahead                 # of the vectors; all other fields are small
        self.number = number
        self.rows = 0
        self.written = 0                    # rows that the objects under the shard's names cover
        self.block_row = 0                  # the shard row of the block that is being filled
        self.held: list[Block] = []         # raw parts point into these
        self.last: Block | None = None      # the one that ended a shard before it was full
        self._generations: dict[str, str] = {}      # of the objects under the shard's names, as far as we wrote or saw them
        self._session = session
        self._bodies = {name: FieldBody(schema, f, pieces) for name, f in schema.fields.items()}
        self._added = dict.fromkeys(schema.fields, 0)

    @property
    def first_address(self) -> int:
        return self.number * self.schema.rows_per_shard

    def absorb(self, block: Block, filled: int) -> None:
        """Encode the whole chunks of the block's first ``filled`` rows that are not encoded yet."""
        for name, f in self.schema.fields.items():
            start, stop = self._added[name], self.block_row + filled // f.chunk_rows * f.chunk_rows
            if stop > start:
                rows = block.column(name, start - self.block_row, stop - self.block_row)
                self._bodies[name].add(start, rows, stop - start)
                self._added[name] = stop
        self.rows = self.block_row + filled
        self._ahead.feed(self._bodies[VECTORS].parts())

    def stop_ahead(self) -> None:
        """No object of this shard will be written any more."""
        self._ahead.drop()

    def next_block(self) -> None:
        """The block is whole; the next one follows it."""
        self.block_row = self.rows

    def objects(self, block: Block | None) -> dict[str, list[Buffer]]:
        """Name and parts of every field's object as of now. ``block`` is the one that holds the partial chunks."""
        out = {}
        for name, f in self.schema.fields.items():
            start = self._added[name]
            behind: list[Buffer] = []
            if self.rows > start:
                assert block is not None
                rows = block.column(name, start - self.block_row, self.rows - self.block_row)
                behind = self._bodies[name].add_partial(start, rows, self.rows - start)
            out[shard_name(f, self.number)] = self._bodies[name].finish(
                self.rows, self.schema.store_id, self._session.commit_id, self.number, behind)
        return out

    def writes(self, storage: Storage, block: Block | None, tag: str) -> list[Callable[[], None]]:
        """One call per object, in any order: to a temporary file, synced by the descriptor that wrote it, then renamed; over
        the very generation that this shard last had."""
        vectors = shard_name(self.schema.vectors, self.number)

        def write(name: str, parts: list[Buffer]) -> Callable[[], None]:
            def call() -> None:
                draft = self._ahead.finish(parts) if name == vectors else None
                self._generations[name] = storage.rewrite(draft or storage.draft(parts, tag), name,
                                                          self._generations.get(name))
            return call
        return [write(name, parts) for name, parts in self.objects(block).items()]

    def let_go(self) -> list[Block]:
        """The shard is on the disk, or left as it is: free its bytes, and give the blocks that it held."""
        self._ahead.drop()
        for body in self._bodies.values():
            body.free()
        self._bodies.clear()
        held, self.held = self.held, []
        return held

    @property
    def is_wasteful(self) -> bool:
        """The superseded chunks of all objects together exceed a quarter of a full shard."""
        full = sum(f.row_bytes or 16 for f in self.schema.fields.values()) * self.schema.rows_per_shard
        return sum(body.dead_bytes for body in self._bodies.values()) * 4 > full

    def resume(self, storage: Storage, rows: int, block: Block) -> None:
        """Take over a shard of ``rows`` rows that another writer handed over. The rows of its partial
        chunks are put into ``block``. Corrupt when an object fails a check."""
        self.block_row = rows // block.rows * block.rows
        for name, f in self.schema.fields.items():
            shard = open_shard(storage, self.schema, f, self.number)
            try:
                self._bodies[name].resume(shard.body(), shard.end, shard.name)
                start = rows // f.chunk_rows * f.chunk_rows
                self._added[name] = start
                self._generations[shard.name] = shard.handle.generation
                if rows > start:
                    block.restore(name, start - self.block_row, _chunk(shard, f, start // f.chunk_rows, rows - start))
            finally:
                shard.handle.close()
        block.filled = block.noted = rows - self.block_row
        self.rows = self.written = rows


def _chunk(shard: Any, f: Any, chunk: int, rows: int) -> Any:
    if f.is_string:
        return shard.strings(chunk).slice(0, rows)
    out = np.empty((f.chunk_rows, *f.shape), f.numpy_dtype)
    shard.chunk_into(chunk, out.reshape(-1).view(np.uint8))
    return out[:rows]


def count_nonfinite(vectors: Array, dtype: str) -> int:
    """Rows that hold a NaN or an infinity."""
    if not is_float(dtype) or not len(vectors):
        return 0
    flat = vectors.reshape(len(vectors), -1)
    if flat.dtype.itemsize == 2:
        # All exponent bits set: the same test for float16 and bfloat16, without converting.
        mask = 0x7C00 if dtype == "float16" else 0x7F80
        bits = flat.view(np.uint16)
        bad = (bits & mask) == mask
        return int(bad.any(axis=1).sum()) if bad.any() else 0
    with np.errstate(over="ignore", invalid="ignore"):
        # A sum is finite only if all its terms are, and costs a third of asking each.
        if np.isfinite(flat.sum()):
            return 0
    return int((~np.isfinite(flat)).any(axis=1).sum())
