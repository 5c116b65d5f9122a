"""The shards of a compacted store. Shard i holds the same rows whoever makes it, so that a run which was cut short is gone on
with: what is finished and sound stays, the rest is written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np

from zstore._typing import Array, Buffer
from zstore.commits.claims import claim_shard, is_claimed
from zstore.errors import Conflict, Corrupt
from zstore.format.dtypes import is_float
from zstore.format.extents import Extents
from zstore.format.keys import StringIds, pack_strings, seed_of
from zstore.format.layout import commit_name, run_name, shard_name
from zstore.format.record import SessionInfo
from zstore.format.run import Entries, RunHeader, concat, epoch_spans, run_parts
from zstore.format.schema import EPOCH, IDS, VECTORS, Field, Schema
from zstore.maintenance.compact_order import Plan
from zstore.maintenance.compact_source import Source
from zstore.rows import Rows
from zstore.shards.build import FieldBody
from zstore.shards.read import ShardFile, open_shard
from zstore.storage.base import Storage
from zstore.writing.arrays import cast
from zstore.writing.crew import Crew, Job
from zstore.writing.entries import SPILL_ROWS, Noted, make_entries
from zstore.writing.sealing import count_nonfinite

AT_ONCE, AT_ONCE_AFAR = 2, 4        # shards in the making; each holds one field's rows, decoded and encoded
_TRIES = 20


@dataclass(frozen=True)
class Made:
    """One shard: what the key index says of its rows, and how many of them hold a NaN or an infinity."""

    entries: Entries
    nonfinite: int


@dataclass(frozen=True)
class Written:
    """All of them."""

    runs: tuple[str, ...]
    nonfinite: int


class ShardMaker:
    """Makes the shards of one store from the rows of another. ``resumed``: some may be there."""

    def __init__(self, storage: Storage, schema: Schema, session: SessionInfo, source: Source, plan: Plan,
                 resumed: bool) -> None:
        self._storage, self._schema, self._session = storage, schema, session
        self._source, self._plan, self._resumed = source, plan, resumed
        self._tag = f"{session.opened:020d}"

    @property
    def shards(self) -> int:
        return -(-len(self._plan) // self._schema.rows_per_shard)

    def write_all(self, progress: Callable[[int, int], None] | None) -> Written:
        """Every shard and every run of the key index, written; names are durable after a sync of their folders."""
        at_once = AT_ONCE_AFAR if self._storage.distant else AT_ONCE
        crew = Crew(at_once, "zstore-compact")
        under_way: deque[Job[Made]] = deque()
        runs: list[str] = []
        entries: list[Entries] = []
        done = nonfinite = 0
        try:
            for shard in range(self.shards + at_once):
                if shard < self.shards:
                    under_way.append(crew.submit(partial(self.make, shard)))
                if shard < at_once - 1 or not under_way:
                    continue
                made = under_way[0].result()
                under_way.popleft()
                entries.append(made.entries)
                done, nonfinite = done + len(made.entries), nonfinite + made.nonfinite
                if sum(map(len, entries)) >= SPILL_ROWS or done == len(self._plan):
                    runs.append(self._write_run(concat(entries)))
                    entries.clear()
                if progress is not None:
                    progress(done, len(self._plan))
        finally:
            for job in under_way:
                job.wait()          # nothing is written any more once the lock is let go
            crew.stop()
        return Written(tuple(runs), nonfinite)

    def make(self, shard: int) -> Made:
        """Bring this shard's objects about, one field after another."""
        per_shard = self._schema.rows_per_shard
        first, stop = shard * per_shard, min((shard + 1) * per_shard, len(self._plan))
        if not is_claimed(self._storage, shard):
            claim_shard(self._storage, self._session, shard)
        rows = self._plan.rows(first, stop)
        ids, epochs = self._gather(IDS, rows), self._gather(EPOCH, rows)
        nonfinite = 0
        for name, f in self._schema.fields.items():
            there = self._finished(f, shard, stop - first) if self._resumed else None
            if name == VECTORS:
                vectors = self._vectors(f, rows, ids) if there is None else _rows_of(there, f)
                nonfinite = count_nonfinite(vectors, f.dtype)
                data: Any = vectors
            elif there is None:
                data = ids if name == IDS else epochs if name == EPOCH else self._gather(name, rows)
            if there is None:
                self._put(f, shard, stop - first, self._object(f, shard, stop - first, data))
            else:
                there.close()
        return Made(make_entries([Noted(ids, epochs, first)], seed_of(self._schema.store_id)), nonfinite)

    def _gather(self, name: str, rows: Rows) -> Any:
        values = self._source.gather(name, rows)
        return pack_strings(values.tolist()) if self._schema.fields[name].is_string else values

    def _vectors(self, f: Field, rows: Rows, ids: Any) -> Array:
        vectors = self._source.gather(VECTORS, rows)
        try:
            return cast(vectors, f.dtype, "vectors")
        except ValueError:
            row = _first_refused(vectors, f.dtype)
            name = ids.slice(row, row + 1).to_list()[0] if isinstance(ids, StringIds) else int(ids[row])
            raise ValueError(f"the vector of the id {name!r} holds values that {f.dtype} can't hold; the new store stays "
                             f"invisible: remove {self._storage.url} and ask for a wider dtype") from None

    def _object(self, f: Field, shard: int, rows: int, data: Any) -> list[Buffer]:
        body = FieldBody(self._schema, f)
        whole = rows // f.chunk_rows * f.chunk_rows
        if whole:
            body.add(0, data, whole)
        rest = data.slice(whole, rows) if isinstance(data, StringIds) else data[whole:]
        return body.finish(rows, self._schema.store_id, self._session.commit_id, shard,
                           body.add_partial(whole, rest, rows - whole))

    def _finished(self, f: Field, shard: int, rows: int) -> ShardFile | None:
        """The object, if it is of this very making, covers the rows and passes every check."""
        try:
            there = open_shard(self._storage, self._schema, f, shard)
        except Corrupt:
            return None
        try:
            if there.end.rows == rows:
                there.verify()
                return there
        except Corrupt:
            pass
        there.close()
        return None

    def _put(self, f: Field, shard: int, rows: int, parts: list[Buffer]) -> None:
        """Give the object its name: over nothing, or over what is there and is not finished. A run that was thought dead may
        write the same rows at the same time; whoever comes second leaves the finished object alone. Once record 1 is there
        the store is its writers', who append to its last shard: then nothing is written any more."""
        name, over = shard_name(f, shard), None
        if self._resumed:
            over = _generation(self._storage, name)
        for _ in range(_TRIES):
            # Asked after the generation was read: writers come after record 1, so that theirs is another one.
            if over is not None and self._storage.exists(commit_name(1)):
                return
            try:
                self._storage.rewrite(self._storage.draft(parts, self._tag), name, over)
                return
            except Conflict:
                over = _generation(self._storage, name)
                there = self._finished(f, shard, rows)
                if there is not None:
                    there.close()
                    return
                self._refuse_foreign(f, shard, rows)
        raise Conflict(f"{self._storage.url}: {name} is changed by someone else again and again; let nobody write there")

    def _refuse_foreign(self, f: Field, shard: int, rows: int) -> None:
        """Conflict where the object is of another session, or holds more rows than this run would write."""
        try:
            there = open_shard(self._storage, self._schema, f, shard)
        except Corrupt:
            return
        there.close()
        # A writer's, once record 1 is there; which is then asked for before anything is written.
        strange = there.end.session != self._session.commit_id or there.end.rows > rows
        if strange and not self._storage.exists(commit_name(1)):
            raise Conflict(f"{self._storage.url}: {there.name} is another writer's; let nobody write there, or choose another "
                           "path")

    def _write_run(self, entries: Entries) -> str:
        """One run, under a name that follows from what it covers: made again, it takes the same place."""
        first, last = int(entries.address[0]), int(entries.address[-1])
        run = f"{self._tag}-{sha256(f'{self._session.commit_id} {first} {last}'.encode()).hexdigest()[:32]}"
        header = RunHeader(self._schema.store_id, self._session.commit_id, self._session.opened, len(entries),
                           self._schema.ids_are_strings, Extents.of_addresses(entries.address),
                           epoch_spans(entries.epoch, entries.address))
        self._storage.replace(self._storage.draft(run_parts(header, entries.sorted()), self._tag), run_name(run))
        return run


def _rows_of(there: ShardFile, f: Field) -> Array:
    """The rows that a finished object covers."""
    if not is_float(f.dtype):
        return np.empty((0, *f.shape), f.numpy_dtype)       # nobody asks what they are
    chunks = -(-there.rows // f.chunk_rows)
    out = np.empty((chunks * f.chunk_rows, *f.shape), f.numpy_dtype)
    raw = out.reshape(-1).view(np.uint8).reshape(chunks, -1)
    for chunk in range(chunks):
        there.chunk_into(chunk, raw[chunk])
    return out[:there.rows]


def _generation(storage: Storage, name: str) -> str | None:
    try:
        handle = storage.open(name)
    except FileNotFoundError:
        return None
    try:
        return handle.generation
    finally:
        handle.close()


def _first_refused(vectors: Array, dtype: str) -> int:
    """The first row that this dtype can't hold."""
    low, high = 0, len(vectors)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            cast(vectors[low:middle], dtype, "vectors")
            low = middle
        except ValueError:
            high = middle
    return low
