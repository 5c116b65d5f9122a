"""From blocks to shards, in the background: one worker encodes whole blocks, a crew writes and syncs full shards.

A failure never loses rows: the block stays at the head of the queue, the shard's bytes stay in memory. It is raised at
the caller's next call, and that call also lets the worker try again.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from zstore.commits.claims import check_fence, claim_shard
from zstore.commits.log import Log
from zstore.commits.opening import Session
from zstore.errors import Corrupt, InDoubt, StaleWriter
from zstore.format.schema import EPOCH, IDS, VECTORS, Schema
from zstore.notices import logger
from zstore.writing.blocks import Block, block_rows
from zstore.writing.crew import Crew, Job
from zstore.writing.door import Batch
from zstore.writing.entries import Pending
from zstore.writing.sealing import OpenShard, count_nonfinite, write_objects

FATAL = (StaleWriter, InDoubt)


class Pipeline:
    """The rows of one writer between `append` and the record that names them.

    Locks, always in this order: ``shard_lock`` (what is encoded), then ``_door`` (blocks and the queue)."""

    def __init__(self, log: Log, session: Session, schema: Schema, crew: Crew) -> None:
        self.schema = schema
        self.session = session
        self.shard_lock = threading.RLock()
        self.next_shard = session.opening.next
        self.dirty: set[str] = set()            # folders with names that are not durable yet
        self._log, self._storage, self._crew = log, log.storage, crew
        self._rows = block_rows(schema)
        per_shard = schema.rows_per_shard // self._rows
        # Raw blocks are the shard itself: two shards and one to fill. Others are free again once they are encoded.
        raw = any(schema.chunk_codec(f).fixed for f in schema.fields.values())
        self._limit = 2 * per_shard + 1 if raw else max(2, min(8, per_shard))
        self._holds_blocks = raw
        self._made = 0
        self._free: list[Block] = []
        self._queue: deque[Block] = deque()
        self._filling: Block | None = None
        self._door = threading.Condition()
        self._failure: BaseException | None = None
        self._stopped = False
        self.shard: OpenShard | None = None
        self._sealing: tuple[Job[None], OpenShard] | None = None
        self.pending = Pending(self._storage, schema, session.info)
        self._taken = session.taken
        threading.Thread(target=self._work, name="zstore-encode", daemon=True).start()

    # -- the caller's side -------------------------------------------------------------------------------------

    def append(self, batch: Batch) -> None:
        """Copy the batch into blocks; waits where the background is behind by more than the bound."""
        with self._door:
            self._raise_failure()
            at = 0
            while at < batch.rows:
                block = self._block_to_fill()
                count = min(block.rows - block.filled, batch.rows - at)
                block.write(block.filled, batch, at, at + count)
                block.filled += count
                at += count
                if block.filled == block.rows:
                    self._queue.append(block)
                    self._filling = None
                    self._door.notify_all()

    @property
    def has_rows(self) -> bool:
        """Rows are here that no record names."""
        with self._door:
            waiting = bool(self._queue) or (self._filling is not None and self._filling.filled > self._filling.noted)
        return waiting or self.pending.rows > 0

    def drain(self) -> None:
        """Wait until every whole block is encoded. Raises what went wrong in the background."""
        with self._door:
            self._raise_failure()
            while self._queue and self._failure is None:
                self._door.wait()
            self._raise_failure()

    def fail(self, error: BaseException) -> None:
        """Have the caller's next call raise this."""
        with self._door:
            if not isinstance(self._failure, FATAL):
                self._failure = error
            self._door.notify_all()

    def stop(self) -> None:
        """Let the worker end."""
        with self._door:
            self._stopped = True
            self._door.notify_all()

    # -- under the shard's lock ----------------------------------------------------------------------------------

    def absorb_partial(self) -> None:
        """Encode and note what the filling block holds so far. The caller holds ``shard_lock`` and has drained."""
        with self._door:
            block = self._filling
            filled = block.filled if block is not None else 0
        if block is None or filled == block.noted:
            return
        shard = self._shard()
        shard.absorb(block, filled)
        self._note(shard, block, filled)

    def write_tail(self, tag: str) -> None:
        """Write the unfilled shard's objects as of now; the caller holds ``shard_lock``."""
        shard = self.shard
        if shard is None or shard.rows == shard.written:
            return
        write_objects(self._storage, shard.objects(self._filling), tag, self._crew.run_all)
        shard.written = shard.rows
        self._mark_dirty()

    def await_seal(self) -> None:
        """Wait for the full shard that is being written; one that failed is written again from memory."""
        while self._sealing is not None:
            job, shard = self._sealing
            try:
                job.result()
            except BaseException:
                self._write_full(shard)         # raises what goes wrong now, and is tried again the next time
            self._sealing = None

    def leave_shard(self) -> bool:
        """Begin a fresh shard with the next row, if the filling block holds nothing but what is noted."""
        with self._door:
            if self._filling is not None and self._filling.filled > self._filling.noted:
                return False
            if self._filling is not None:
                self._release([self._filling])
            if self.shard is not None:
                self._release(self.shard.held)
            self._filling, self.shard, self._taken = None, None, None
            return True

    def unfilled(self) -> int | None:
        """The shard that a clean close may hand over: this writer's, not full, and written as it is."""
        if self._taken is not None:
            return self._taken[0]
        if self.shard is None or self.shard.rows == 0 or self.shard.rows != self.shard.written:
            return None
        return self.shard.number

    # -- blocks ----------------------------------------------------------------------------------------------------

    def _block_to_fill(self) -> Block:
        """The block with room; waits for a free one. The door is held."""
        if self._filling is not None:
            return self._filling
        if self._taken is not None:
            self._filling = self._resume_tail(*self._taken)
            self._taken = None
            if self._filling is not None:
                return self._filling
        while not self._free and self._made >= self._limit:
            self._raise_failure()
            self._door.wait()
        if self._free:
            block = self._free.pop()
        else:
            block = Block(self.schema, self._rows)
            self._made += 1
        block.filled = block.noted = 0
        self._filling = block
        return block

    def _resume_tail(self, number: int, rows: int) -> Block | None:
        # Loaded at the first row: a writer that appends nothing reads nothing.
        block = Block(self.schema, self._rows)
        shard = OpenShard(self.schema, self.session.info, number)
        try:
            shard.resume(self._storage, rows, block)
        except (Corrupt, FileNotFoundError) as error:
            logger.warning("shard %d is not continued, a fresh one is begun: %s", number, error)
            return None
        self._made += 1
        self.shard = shard
        return block

    def _release(self, blocks: list[Block]) -> None:
        self._free += blocks
        self._door.notify_all()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            error = self._failure
            if not isinstance(error, FATAL):
                self._failure = None            # the worker tries again
                self._door.notify_all()
            raise error

    # -- the worker ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._door:
                while not self._stopped and (not self._queue or self._failure is not None):
                    self._door.wait()
                if self._stopped:
                    return
                block = self._queue[0]
            try:
                with self.shard_lock:
                    self._add_block(block)
            except BaseException as error:
                self.fail(error)

    def _add_block(self, block: Block) -> None:
        shard = self._shard()
        fills = shard.block_row + block.rows == self.schema.rows_per_shard
        if fills:
            self.await_seal()
        shard.absorb(block, block.rows)
        self._note(shard, block, block.rows)
        shard.next_block()
        if self._holds_blocks:
            shard.held.append(block)
        with self._door:
            self._queue.popleft()
            if not self._holds_blocks:
                self._free.append(block)
            if fills:
                self.shard = None
            self._door.notify_all()
        if fills:
            self._sealing = (self._crew.submit(lambda: self._seal(shard)), shard)
        self.pending.spill()

    def _note(self, shard: OpenShard, block: Block, upto: int) -> None:
        start = block.noted
        if upto > start:
            ids, epochs = block.column(IDS, start, upto), block.column(EPOCH, start, upto)
            vectors = block.column(VECTORS, start, upto)
            address = shard.first_address + shard.block_row + start
            self.pending.note(ids, epochs, address, count_nonfinite(vectors, self.schema.vectors.dtype))
            block.noted = upto

    def _seal(self, shard: OpenShard) -> None:
        try:
            self._write_full(shard)
        except BaseException as error:
            self.fail(error)
            raise

    def _write_full(self, shard: OpenShard) -> None:
        tag = f"{self.session.info.opened:020d}"
        write_objects(self._storage, shard.objects(None), tag, _in_turn)
        self._mark_dirty()
        with self._door:
            self._release(shard.held)
            shard.held = []

    def _shard(self) -> OpenShard:
        """The shard that rows go to; claimed just before its first byte."""
        if self.shard is None:
            number = claim_shard(self._storage, self.session.info, self.next_shard)
            self.next_shard = number + 1
            # A zombie learns of its successor here, before it writes a byte.
            check_fence(Log(self._storage).head(), self.session.info, self._storage.url)
            self.shard = OpenShard(self.schema, self.session.info, number)
        return self.shard

    def _mark_dirty(self) -> None:
        self.dirty |= {f.path for f in self.schema.fields.values()}


def _in_turn(calls: list[Any]) -> None:
    for call in calls:
        call()
