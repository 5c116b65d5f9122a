"""The one full shard that is being written while the next one fills."""

from __future__ import annotations

from collections.abc import Callable

from zstore.storage.base import Storage
from zstore.writing.crew import Crew, Job
from zstore.writing.sealing import OpenShard


class Seals:
    """Writes full shards on the crew, one at a time. One that failed stays in memory and is written again by ``wait``.

    ``written`` is called with a shard that is on the disk, ``failed`` with what went wrong."""

    def __init__(self, storage: Storage, crew: Crew, tag: str, written: Callable[[OpenShard], None],
                 failed: Callable[[BaseException], None]) -> None:
        self._storage, self._crew, self._tag = storage, crew, tag
        self._written, self._failed = written, failed
        self._under_way: tuple[Job[None], OpenShard] | None = None
        self.broke = False          # the last one failed, and was not written since

    def begin(self, shard: OpenShard) -> None:
        """Write it in the background. None may be under way."""
        self._under_way = (self._crew.submit(lambda: self._try(shard)), shard)

    def wait(self) -> None:
        """Until what is under way is written; one that failed is written again, and raises what goes wrong now."""
        while self._under_way is not None:
            job, shard = self._under_way
            try:
                job.result()
            except BaseException:
                self._write(shard)
            self._under_way, self.broke = None, False

    def _try(self, shard: OpenShard) -> None:
        try:
            self._write(shard)
        except BaseException as error:
            self.broke = True
            self._failed(error)
            raise

    def _write(self, shard: OpenShard) -> None:
        self._crew.run_all(shard.writes(self._storage, shard.last, self._tag)[::-1])     # the vectors on this thread
        self._written(shard)
