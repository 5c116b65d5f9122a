"""The store of a run: what it is at the door, and the Writer, which a run without a new row never opens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zstore.errors import Conflict, StoreNotFound
from zstore.maintenance.describe import Description, describe
from zstore.reader import Reader
from zstore.writer import Writer


class Opening:
    """A Writer publishes a version when it opens a store, so it is opened with the first row; at once where the store is still
    to be made, which publishes nothing, and where another writer lives, whom it must meet before the model has worked.

    ``reader``: what the store held before this run; None: there was none."""

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None, options: Mapping[str, Any]) -> None:
        self.url, self.storage_options = url, storage_options
        self._options = options
        self._writer: Writer | None = None
        held = described(url, storage_options)
        if held is None or held.writer == "alive":
            self._open()
        self.reader = reader_of(url, storage_options)
        self._version = 0 if self.reader is None else self.reader.version       # that ours was opened as

    @property
    def is_open(self) -> bool:
        return self._writer is not None

    def writer(self) -> Writer:
        """Conflict where another one lives, or wrote since ``reader`` was opened: rows would be counted twice."""
        if self._writer is None:
            writer = self._open()
            head = described(self.url, self.storage_options)
            self._version += 1
            if head is None or head.commit.version != self._version:
                raise Conflict(f"{self.url} was written by another process while this run began; run it again")
            return writer
        return self._writer

    def commits(self) -> int:
        """How many versions were published since the Writer was opened."""
        head = described(self.url, self.storage_options) if self.is_open else None
        return 0 if head is None else head.commit.version - self._version

    def close(self) -> None:
        """Commit, and let go of the Writer."""
        if self._writer is not None:
            self._writer.close()

    def _open(self) -> Writer:
        self._writer = Writer(self.url, storage_options=self.storage_options, **self._options)
        self._writer.tells_superseded = False       # a changed text is what the run is for
        return self._writer


def described(url: str, storage_options: Mapping[str, Any] | None) -> Description | None:
    try:
        return describe(url, storage_options=storage_options)
    except StoreNotFound:
        return None


def reader_of(url: str, storage_options: Mapping[str, Any] | None) -> Reader | None:
    try:
        return Reader(url, storage_options=storage_options)
    except StoreNotFound:
        return None


def check_writer(url: str, held: Description | None, options: Mapping[str, Any]) -> None:
    """ValueError for an option that the store contradicts: the Writer, which says the same, comes late."""
    for name in ("codec", "rows_per_shard"):
        asked = options.get(name)
        if held is not None and asked not in (None, getattr(held, name)):
            raise ValueError(f"{name}={asked!r} contradicts {url}, which holds {getattr(held, name)!r}; leave the option out, "
                             "or write to a new store")
