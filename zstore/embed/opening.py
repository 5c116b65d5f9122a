"""The store of a run: what it is at the door, and the Writer, which a run without a new row never opens."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from zstore.errors import AlreadyExists, Conflict, StoreNotFound
from zstore.maintenance.describe import Description, describe
from zstore.reader import Reader
from zstore.writer import Writer


class Opening:
    """A Writer publishes a version when it opens a store, so it is opened with the first row; at once where the store is still
    to be made, which publishes nothing, where the user's ``attrs`` are new to it, and where another writer lives, whom it must
    meet before the model has worked.

    ``check`` raises ValueError where a store can't take this run's vectors. ``reader``: what the store held before this run;
    None: there was none."""

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None, options: Mapping[str, Any],
                 attrs: Mapping[str, Any] | None, check: Callable[[Description], Any]) -> None:
        self.url, self.storage_options = url, storage_options
        self._options, self._check = options, check
        self._writer: Writer | None = None
        self._begun = False                             # a row was about to be written
        self.refused: Conflict | ValueError | None = None
        held = described(url, storage_options)
        self.mode = "x" if held is None else "a"        # of the Writer: who makes the store first has it
        if held is not None:
            check(held)
        if held is None or held.writer == "alive" or any(name not in held.attrs for name in attrs or ()):
            self._open()
        self.reader = reader_of(url, storage_options)
        self._version = None if self.reader is None else self.reader.version    # that ours was opened as

    @property
    def is_open(self) -> bool:
        return self._writer is not None

    def writer(self) -> Writer:
        """Conflict where another one lives, or wrote since ``reader`` was opened: rows would be counted twice. Raises what
        ``check`` does where the other was of another kind. Refused once is refused always: what the model has in hand by then
        still comes."""
        if self.refused is not None:
            raise self.refused
        if not self._begun:
            try:
                self._begin()
            except (Conflict, ValueError) as error:
                self.refused = error
                writer, self._writer = self._writer, None
                if writer is not None:
                    writer.close()
                raise
        assert self._writer is not None
        return self._writer

    def commits(self) -> int:
        """How many versions were published since the Writer was opened."""
        head = described(self.url, self.storage_options) if self._begun else None
        return 0 if head is None else head.commit.version - (self._version or 0)

    def close(self) -> None:
        """Commit, and let go of the Writer."""
        if self._writer is not None:
            self._writer.close()

    def _begin(self) -> None:
        self._stand_still()
        if self._writer is None:
            self._open()
            self._version = (self._version or 0) + 1
            self._stand_still()
        self._begun = True

    def _stand_still(self) -> None:
        """Raise where head is no more what it was."""
        head = described(self.url, self.storage_options)
        if (None if head is None else head.commit.version) == self._version:
            return
        if head is not None:
            self._check(head)
        if self._version is None:
            raise made_meanwhile(self.url)
        raise Conflict(f"{self.url} was written by another process while this run began; run it again")

    def _open(self) -> None:
        try:
            self._writer = Writer(self.url, storage_options=self.storage_options, mode=self.mode, **self._options)
        except AlreadyExists as error:
            raise self.told(error) from None
        self._writer.tells_superseded = False       # a changed text is what the run is for

    def told(self, error: Exception) -> Exception:
        """The error as it is told, if another process made the store at the same time. Raises what ``check`` does."""
        head = described(self.url, self.storage_options) if isinstance(error, AlreadyExists) else None
        if head is None:
            return error
        self._check(head)
        return made_meanwhile(self.url)


def made_meanwhile(url: str) -> Conflict:
    return Conflict(f"another process made {url} while this run began; run it again, what is there by then is skipped")


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
    def differ(name: str, asked: Any, there: Any) -> None:
        raise ValueError(f"{name}={asked!r} contradicts {url}, which holds {there!r}; leave the option out, or write to a new "
                         "store")
    attrs = options.get("attrs")
    if not isinstance(attrs, Mapping | None):
        raise TypeError(f"attrs is a mapping of names to what JSON can hold, not {attrs!r:.200}")
    if held is None:
        return
    for name in ("codec", "rows_per_shard"):
        if options.get(name) not in (None, getattr(held, name)):
            differ(name, options[name], getattr(held, name))
    for name, value in (attrs or {}).items():
        if name in held.attrs and json.loads(json.dumps(value)) != held.attrs[name]:
            differ(f"attrs[{name!r}]", value, held.attrs[name])
