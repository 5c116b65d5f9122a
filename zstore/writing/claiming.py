"""The shards of one writer, one after another: each claimed before its first byte."""

from __future__ import annotations

from zstore.commits.claims import check_fence, claim_shard
from zstore.commits.log import Log
from zstore.commits.opening import Session
from zstore.errors import Corrupt
from zstore.format.schema import Schema
from zstore.notices import logger
from zstore.shards.pieces import Pieces
from zstore.writing.ahead import Ahead
from zstore.writing.blocks import Block
from zstore.writing.crew import Crew, Job
from zstore.writing.sealing import OpenShard


class ShardSource:
    """``next``: where to start claiming. Used under the pipeline's shard lock."""

    def __init__(self, log: Log, session: Session, schema: Schema, crew: Crew, tag: str) -> None:
        self.next = session.opening.next
        self._log, self._session, self._schema, self._crew, self._tag = log, session, schema, crew, tag
        self._alone = log.storage.distant
        self._pieces = Pieces()
        self._claim: Job[int] | None = None

    def fresh(self) -> OpenShard:
        """A shard of its own, claimed now if it is not yet. StaleWriter where another session took over."""
        job, self._claim = self._claim, None
        return self.open(self._claim_next() if job is None else job.result())

    def claim_ahead(self) -> None:
        """There are rows for another shard: claim it in the background, where its small file may wait for the disk. Never
        without rows: a claim that nobody needs is a hole."""
        if self._claim is None:
            self._claim = self._crew.submit(self._claim_next)

    def open(self, number: int) -> OpenShard:
        """One that is this session's already."""
        whole = self._schema.rows_per_shard * self._schema.vectors.row_bytes
        ahead = Ahead(self._log.storage, self._crew, self._tag, whole // 4)
        return OpenShard(self._schema, self._session.info, number, self._pieces, ahead)

    def resume(self, number: int, rows: int, block: Block) -> OpenShard | None:
        """The one of ``rows`` rows that was handed over, with its last rows in ``block``; None, with a warning, where it is
        damaged or gone."""
        shard = self.open(number)
        try:
            shard.resume(self._log.storage, rows, block)
        except (Corrupt, FileNotFoundError) as error:
            logger.warning("shard %d is not continued, a fresh one is begun: %s", number, error)
            return None
        return shard

    def _claim_next(self) -> int:
        storage, session = self._log.storage, self._session.info
        number = claim_shard(storage, session, self.next, self._alone)
        self._alone = storage.distant and number == self.next       # nobody else claims
        self.next = number + 1
        # A zombie learns of its successor here, before it writes a byte.
        check_fence(self._log.again().head(), session, storage.url)
        return number
