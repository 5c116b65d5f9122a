"""The blocks of one writer: as many as the bound allows, used again and again."""

from __future__ import annotations

from collections.abc import Callable

from zstore.format.schema import Schema
from zstore.writing.blocks import Block, block_rows


class BlockPool:
    """Used under the pipeline's door. ``holds``: blocks are parts of the shard until it is written, as raw rows are."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.rows = block_rows(schema)
        per_shard = schema.rows_per_shard // self.rows
        self.holds = any(schema.chunk_codec(f).fixed for f in schema.fields.values())
        # Raw blocks are the shard itself: one and a half, and one to fill. Others are free again once they are encoded.
        self._limit = per_shard + per_shard // 2 + 1 if self.holds else max(2, min(4, per_shard))
        # What is free once nothing is on its way: more than that is not worth waiting for.
        self._surely_free = self._limit - (per_shard if self.holds else 1)
        self._made = 0
        self._spares = 0                # asked for and not there yet
        self._free: list[Block] = []

    def has_room(self, rows: int) -> bool:
        """Blocks for as many rows are free within the bound, or as many as surely will be."""
        wanted = min(-(-rows // self.rows), self._surely_free)
        return len(self._free) + self._limit - self._made >= wanted

    def take(self) -> Block:
        """An empty block; a new one where none is free, even beyond the bound."""
        taken: list[Block] = []
        self.lend(taken.append)
        return taken[0]

    def lend(self, keep: Callable[[Block], None]) -> None:
        """The same, handed to ``keep`` before it leaves the pool: an interrupt may find it in both, never in neither."""
        if not self._free:
            self._free.append(Block(self.schema, self.rows))
            self._made += 1
        block = self._free[-1]
        block.clear()
        keep(block)
        self.is_lent(block)

    def wants_spare(self) -> bool:
        """A block is to be made before it is needed, on a thread that can wait for its pages, and given to ``add``."""
        if self._free or self._spares or self._made >= self._limit:
            return False
        self._spares += 1
        return True

    def add(self, spare: Block | None) -> None:
        """What ``wants_spare`` asked for; None where it could not be made."""
        self._spares -= 1
        if spare is not None and self._made < self._limit:
            self._free.insert(0, spare)         # last in line: the caches know the others
            self._made += 1

    def is_lent(self, block: Block) -> None:
        """The block left the pool, if an interrupt kept it from doing so."""
        if self._free and self._free[-1] is block:
            self._free.pop()

    def give_back(self, blocks: list[Block]) -> None:
        """They may be filled again; those beyond the bound are dropped."""
        self._free += [block for block in blocks if block not in self._free]
        while self._free and self._made > self._limit:
            self._free.pop()
            self._made -= 1
