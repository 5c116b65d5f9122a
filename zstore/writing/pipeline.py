"""From blocks to shards, in the background: one worker encodes whole blocks, a crew writes and syncs full shards.

A failure never loses rows: the block stays at the head of the queue, the shard's bytes stay in memory. It is raised at
the caller's next call, and that call also lets the worker try again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from zstore.commits.log import Log
from zstore.commits.opening import Session
from zstore.errors import InDoubt, StaleWriter
from zstore.format.layout import CLAIMS
from zstore.format.schema import EPOCH, IDS, VECTORS, Schema
from zstore.writing.blocks import Block
from zstore.writing.claiming import ShardSource
from zstore.writing.crew import Crew
from zstore.writing.door import Batch, Door
from zstore.writing.entries import Pending
from zstore.writing.pool import BlockPool
from zstore.writing.sealing import OpenShard, count_nonfinite
from zstore.writing.seals import Seals

FATAL = (StaleWriter, InDoubt)
STOP_S = 1.0                # how long letting go waits for whoever encodes; what was written ahead is litter then, and gc's
PAUSE_S = 0.0005            # how often an append that has to wait looks whether it still has to


class Pipeline:
    """The rows of one writer between `append` and the record that names them.

    Locks, always in this order: ``shard_lock`` (what is encoded), then ``_door`` (blocks and the queue)."""

    def __init__(self, log: Log, session: Session, schema: Schema, crew: Crew) -> None:
        self.schema = schema
        self.session = session
        self.shard_lock = threading.RLock()
        self.dirty: set[str] = set()            # folders with names that are not durable yet
        self.batches = Door(schema)
        self._storage, self._crew = log.storage, crew
        self._pool = BlockPool(schema)
        self._whole_rows = self._wanted = 0     # rows of all blocks before the filling one; threads that want the lock
        self._queue: deque[Block] = deque()
        self._filling: Block | None = None
        self._partial: Block | None = None      # the one that holds the unfilled shard's last rows
        # `with` goes through the bare lock: an interrupt inside Condition's own `__enter__` would leave it held for ever.
        self._lock = threading.RLock()
        self._door = threading.Condition(self._lock)
        self._failure: BaseException | None = None
        self._stopped = False
        self.shard: OpenShard | None = None
        tag = f"{session.info.opened:020d}"
        self.shards = ShardSource(log, session, schema, crew, tag)
        self._seals = Seals(self._storage, crew, tag, self._is_sealed, self.fail)
        self.pending = Pending(self._storage, schema, session.info)
        self._taken = session.taken
        threading.Thread(target=self._work, name="zstore-encode", daemon=True).start()

    def append(self, batch: Batch) -> None:
        """Copy the batch into blocks; waits, before its first row, where the background is behind by more than the bound.

        A batch is taken whole: nothing between its rows waits, so that no failure and no commit can part them; what is larger
        than the bound goes into blocks beyond it. An interrupt is raised with the batch in, or with none of it in: every
        step can be begun again.
        """
        interrupt: KeyboardInterrupt | None = None
        while True:
            with self._lock:
                if self._failure is not None:
                    self._raise_failure()
                block = self._filling
                if block is not None and 0 < block.filled < block.rows - batch.rows:     # most batches
                    block.write(block.filled, batch, 0, batch.rows)
                    block.filled += batch.rows
                    return
                if self._filling is None and self._taken is not None:
                    self._crew.do(self._resume_tail)
                if self._has_room(batch.rows):
                    start = self._next_row()
                    while True:
                        try:
                            self._fill(batch, start)
                            break
                        except KeyboardInterrupt as error:
                            interrupt = error
                    break
            time.sleep(PAUSE_S)     # not a condition: an interrupt in the midst of its Python would leave it broken
        if interrupt is not None:
            raise interrupt

    def _next_row(self) -> int:
        """How many rows were ever appended."""
        return self._whole_rows if self._filling is None else self._filling.first + self._filling.filled

    def _fill(self, batch: Batch, start: int) -> None:
        """Queue the full block, or take an empty one, or copy rows into it, until the batch is in."""
        while True:
            block = self._filling
            if block is None:
                if self._whole_rows - start == batch.rows:
                    return
                self._pool.lend(self._keep)
                if self._pool.wants_spare():
                    self._crew.submit(self._make_spare)
            elif block.filled == block.rows:
                if not self._queue or self._queue[-1] is not block:
                    self._queue.append(block)
                self._whole_rows = block.first + block.rows
                self._filling = None
                self._door.notify_all()
            else:
                self._pool.is_lent(block)
                at = block.first + block.filled - start
                if at == batch.rows:
                    return
                count = min(block.rows - block.filled, batch.rows - at)
                block.write(block.filled, batch, at, at + count)
                block.filled += count

    def _keep(self, block: Block) -> None:
        block.first = self._whole_rows
        self._filling = block

    def _make_spare(self) -> None:
        block = None
        try:
            block = Block(self.schema, self._pool.rows)
        finally:
            with self._lock:
                self._pool.add(block)

    def check(self) -> None:
        """Raise what went wrong in the background, once, and let the worker try again."""
        with self._lock:
            self._raise_failure()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold ``shard_lock``, with the worker standing aside.

        A loop that appends faster than the worker encodes keeps the worker busy for ever: whoever waited until nothing is
        queued, or only for the lock, which the worker takes again at once, would never commit."""
        with self._lock:
            self._wanted += 1
        try:
            self.shard_lock.acquire()
        finally:
            with self._lock:
                self._wanted -= 1
                self._door.notify_all()
        try:
            yield
        finally:
            self.shard_lock.release()

    def forgive(self) -> None:
        """Forget what went wrong, unless it ended the writer: what follows tries again, and tells what goes wrong now."""
        with self._lock:
            if self._failure is not None and not isinstance(self._failure, FATAL):
                self._failure = None
                self._door.notify_all()

    @property
    def uncommitted(self) -> int:
        """Rows that were appended and that no record names."""
        with self._lock:
            blocks = [*self._queue, *([] if self._filling is None else [self._filling])]
            return self.pending.rows + sum(block.filled - block.noted for block in blocks)

    def fail(self, error: BaseException) -> None:
        """Have the caller's next call raise this."""
        with self._lock:
            if not isinstance(self._failure, FATAL):
                self._failure = error
            self._door.notify_all()

    def stop(self) -> None:
        """Let the worker end, and drop what was written ahead for rows that no commit will name."""
        with self._lock:
            self._stopped = True
            self._door.notify_all()
        if self.shard_lock.acquire(timeout=STOP_S):     # a commit that hangs in its storage must not hold up who lets go
            try:
                if self.shard is not None:
                    self.shard.stop_ahead()
            finally:
                self.shard_lock.release()

    def absorb(self) -> None:
        """Encode and note all rows that are here now, on the caller's thread, which holds ``shard_lock``.

        What is here is looked at once, between two batches: a commit names whole batches, and ends however fast others
        append. The block that was filling then may be whole, and queued, by the time its turn comes."""
        with self._lock:
            if not self._storage.rewrites:
                self._end_shard()
            whole, block = len(self._queue), self._filling
            filled = block.filled if block is not None else 0
        for _ in range(whole):
            self._add_block(self._queue[0])
        if not self._storage.rewrites:
            self._seal_early()
            return
        if block is None or filled == block.noted:
            return
        shard = self._shard()
        shard.absorb(block, filled)
        self._note(shard, block, filled)
        self._partial = block

    def _end_shard(self) -> None:
        """What follows goes into another shard: where a rewrite can't be conditional, an object is written with one content
        only, and a late duplicate of a request changes nothing. The door is held."""
        block = self._filling
        if block is not None and block.filled:
            block.ends = True
            self._queue.append(block)
            self._whole_rows = block.first + block.filled
            self._filling = None

    def _seal_early(self) -> None:
        """The same for a shard whose rows ended with a block."""
        shard = self.shard
        if shard is not None and shard.rows:
            self._seals.wait()
            self.shard = None
            self._seals.begin(shard)

    def tail_writes(self, tag: str) -> list[Callable[[], None]]:
        """What writes the unfilled shard's objects as of now; the caller holds ``shard_lock`` until all of it is done."""
        if self.shard is None or self.shard.rows == self.shard.written:
            return []
        return self.shard.writes(self._storage, self._partial, tag)

    def tail_is_written(self) -> None:
        """Every one of ``tail_writes`` has ended well."""
        if self.shard is not None and self.shard.rows != self.shard.written:
            self.shard.written = self.shard.rows
            self._mark_dirty()

    def await_seal(self) -> None:
        """Wait for the full shard that is being written; one that failed is written again from memory."""
        self._seals.wait()

    def leave_shard(self) -> bool:
        """Begin a fresh shard with the next row, if all rows that there are have been written."""
        with self._lock:
            if self._queue or (self._filling is not None and self._filling.filled > self._filling.noted):
                return False
            if self.shard is not None and self.shard.rows != self.shard.written:
                return False            # the worker has encoded what came in while the record was published
            self._release([*([] if self._filling is None else [self._filling]),
                           *([] if self.shard is None else self.shard.let_go())])
            self._filling, self.shard, self._taken = None, None, None
            return True

    def unfilled(self) -> int | None:
        """The shard that a clean close may hand over: this writer's, not full, and written as it is."""
        if self._taken is not None:
            return self._taken[0]
        if not self._storage.rewrites or self.shard is None or self.shard.rows == 0 or self.shard.rows != self.shard.written:
            return None
        return self.shard.number

    def _has_room(self, rows: int) -> bool:
        """The rows fit within the bound, or as much is free as surely will be. The door is held."""
        room = 0 if self._filling is None else self._pool.rows - self._filling.filled
        return self._pool.has_room(max(rows - room, 0))

    def _resume_tail(self) -> None:
        # Loaded at the first row: a writer that appends nothing reads nothing.
        assert self._taken is not None
        block = self._pool.take()
        try:
            shard = self.shards.resume(*self._taken, block)
        except BaseException:               # tried again at the next append, which must find its block
            self._pool.give_back([block])
            raise
        if shard is None:
            self._pool.give_back([block])
        else:
            block.first = self._whole_rows - block.filled
            self.shard, self._filling = shard, block
        self._taken = None

    def _release(self, blocks: list[Block]) -> None:
        self._pool.give_back(blocks)
        self._door.notify_all()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            error = self._failure
            if not isinstance(error, FATAL):
                self._failure = None            # the worker tries again
                self._door.notify_all()
            raise error

    def _work(self) -> None:
        while True:
            with self._lock:
                while not self._stopped and (self._failure is not None or self._wanted or not self._has_work):
                    self._door.wait()
                if self._stopped:
                    return
            try:
                with self.shard_lock:
                    if self._queue:                 # a commit may have encoded it meanwhile
                        self._add_block(self._queue[0])
                    elif self._seals.broke:
                        self.await_seal()
            except BaseException as error:
                self.fail(error)

    @property
    def _has_work(self) -> bool:
        # A full shard that could not be written is work too: its blocks may be the very ones that `append` waits for.
        return bool(self._queue) or self._seals.broke

    def _add_block(self, block: Block) -> None:
        shard = self._shard()
        fills = block.ends or shard.block_row + block.rows == self.schema.rows_per_shard
        if block.ends or 2 * (shard.block_row + block.rows) > self.schema.rows_per_shard:
            self.await_seal()           # never more in memory than a shard being written and half of the next
        with self._lock:
            if not block.ends and self._next_row() - (block.first - shard.block_row) > self.schema.rows_per_shard:
                self.shards.claim_ahead()
        shard.absorb(block, block.filled)
        self._note(shard, block, block.filled)
        shard.next_block()
        held = self._pool.holds or block.ends
        if held:
            shard.held.append(block)
        if block.ends:
            shard.block_row, shard.last = shard.block_row - block.filled, block
        with self._lock:
            self._queue.popleft()
            if fills:
                self.shard = None
            self._release([] if held else [block])
        if fills:
            self._seals.begin(shard)
        self.pending.spill()

    def _note(self, shard: OpenShard, block: Block, upto: int) -> None:
        start = block.noted
        if upto > start:
            ids, epochs = block.column(IDS, start, upto), block.column(EPOCH, start, upto)
            vectors = block.column(VECTORS, start, upto)
            address = shard.first_address + shard.block_row + start
            self.pending.note(ids, epochs, address, count_nonfinite(vectors, self.schema.vectors.dtype))
            block.noted = upto

    def _is_sealed(self, shard: OpenShard) -> None:
        self._mark_dirty()
        with self._lock:
            self._release(shard.let_go())

    def _shard(self) -> OpenShard:
        """The shard that rows go to; claimed just before its first byte."""
        if self.shard is None:
            self.shard = self.shards.fresh()
            self.dirty.add(CLAIMS)
        return self.shard

    def _mark_dirty(self) -> None:
        self.dirty |= {f.path for f in self.schema.fields.values()}
