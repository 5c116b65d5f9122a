"""The public face of a commit record."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from zstore.format.record import Record


@dataclass(frozen=True)
class Commit:
    """One version of a store.

    ``rows`` are the version's; ``new_rows`` those that this commit added; ``duplicates`` those of them whose key the
    version before already had; ``nonfinite`` those of them whose vector holds a NaN or an infinity. ``time`` is in
    seconds since 1970, by the writer's clock. ``tag`` is the one that this commit was asked to carry, or None.
    """

    store_id: str
    version: int
    commit_id: str
    rows: int
    new_rows: int
    duplicates: int
    nonfinite: int
    time: float
    opens: bool             # it opened a session (and may have rolled back)
    session: int            # the number of the session's opening commit
    host: str
    pid: int
    member: int
    meta: Any = None
    tag: str | None = None

    @property
    def mark(self) -> dict[str, Any]:
        """What a checkpoint keeps: a dict of plain strings and integers for ``Writer(at=)`` and ``rollback``."""
        return {"store_id": self.store_id, "version": self.version, "commit_id": self.commit_id}

    @property
    def when(self) -> str:
        """``time`` as text, UTC."""
        return datetime.fromtimestamp(self.time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")

    @classmethod
    def of(cls, record: Record, tag: str | None = None) -> Commit:
        """What a record says of itself, with the tag that names it."""
        s = record.session
        return cls(record.store_id, record.version, record.commit_id, record.rows, record.new_rows, record.duplicates,
                   record.nonfinite, record.time, record.opens, s.opened, s.host, s.pid, s.member, record.meta, tag)
