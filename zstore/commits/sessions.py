"""Which sessions a log has: a shard of any other comes from a copy of the store that went another way."""

from __future__ import annotations

from zstore.commits.log import Log
from zstore.errors import Corrupt, FormatError, NotFound
from zstore.format.checksum import open_json
from zstore.format.layout import claim_name, commit_name
from zstore.format.record import Record
from zstore.storage.base import Storage

BEGINNING_BYTES = 2**10


class Sessions:
    """The sessions of one log, learnt as they are asked for: by the claim of a shard, which names the record that opened its
    writer's session; else from the newest record back, one record per session.

    Safe among threads and in forked children: what two of them learn at once they learn twice.
    """

    def __init__(self, storage: Storage, record: Record) -> None:
        self._storage = storage
        self._known = {record.session.commit_id}
        self._oldest = record.session.opened        # down to here all are known, from the newest that was looked at

    def has(self, commit_id: str, shard: int) -> bool:
        """Whether the session with this opening commit, which wrote this shard, is one of the log. True also where an
        unreadable record hides the answer: that is for ``verify`` to say."""
        if commit_id in self._known:
            return True
        log = Log(self._storage)
        try:
            return self._claimed(log, commit_id, shard) or self._older(log, commit_id) or self._newer(log, commit_id)
        except (Corrupt, FormatError, NotFound):
            return True

    def _claimed(self, log: Log, commit_id: str, shard: int) -> bool:
        """Two looks, however many sessions there are, and however long their records."""
        name = claim_name(shard)
        try:
            claim = open_json(self._storage.read(name), name)
        except OSError:
            return False
        opened = claim.get("opened")
        if claim.get("session") != commit_id or type(opened) is not int or opened < 0:
            return False
        if not self._begins_as(opened, commit_id):
            record = log.find(opened)
            if record is None or record.commit_id != commit_id:
                return False
        self._known.add(commit_id)
        return True

    def _begins_as(self, version: int, commit_id: str) -> bool:
        # Records say first who they are. No checksum is needed to know this very id again: nobody finds it by chance.
        try:
            handle = self._storage.open(commit_name(version))
        except FileNotFoundError:
            return False
        try:
            beginning = handle.read(0, BEGINNING_BYTES)
        finally:
            handle.close()
        return b'"version":%d,"commit_id":"%s","parent":' % (version, commit_id.encode()) in beginning

    def _older(self, log: Log, commit_id: str) -> bool:
        while self._oldest > 0 and commit_id not in self._known:
            session = log.read(self._oldest - 1).session
            self._known.add(session.commit_id)
            self._oldest = min(self._oldest, session.opened)
        return commit_id in self._known

    def _newer(self, log: Log, commit_id: str) -> bool:
        """A tail that we pinned may have been taken over since."""
        session = log.head().session
        while session.commit_id not in self._known:
            self._known.add(session.commit_id)
            if session.opened == 0:
                break
            session = log.read(session.opened - 1).session
        return commit_id in self._known
