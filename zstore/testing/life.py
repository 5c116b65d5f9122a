"""A writer's life in verbs, with a ledger of what the library acknowledged; ``themes`` are the lives that are led.

A row is ``(number, epoch, take)``; its id, vector and fields follow from these three, so that a wrong row, a row of another
place and half a row are all seen. ``take`` tells a row that was cut by a rollback from the row that followed it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

import zstore
from zstore._typing import Array

Row: TypeAlias = tuple[int, int, int]
DIM = 3
LEFT_OUT = 9        # rows of this take were appended without a note


def vectors_of(rows: Iterable[Row]) -> Array:
    """(rows, 3) float32; no two rows share one."""
    return np.array([[number + take / 16, epoch + 0.5, take] for number, epoch, take in rows], np.float32).reshape(-1, DIM)


def notes_of(rows: Iterable[Row]) -> Array:
    """(rows,) int16: what the field ``note``, where a version has it, holds."""
    return np.array([-1 if take == LEFT_OUT else number * 3 + take for number, _, take in rows], np.int16)


def id_of(number: int, strings: bool) -> int | str:
    """The id of a row: an integer, or a string whose length varies."""
    return f"s{number:04d}" + "é" * (number % 5) if strings else number


def number_of(identity: Any) -> int:
    """The inverse of ``id_of``."""
    return int(identity[1:5]) if isinstance(identity, str) else int(identity)


@dataclass(frozen=True)
class State:
    """What a version holds: its rows in ascending order, and whether it has the field ``note``."""

    rows: tuple[Row, ...] = ()
    noted: bool = False


@dataclass(frozen=True)
class Place:
    """Where a store is, and how to reach it."""

    url: str
    options: dict[str, Any] | None = None

    @property
    def distant(self) -> bool:
        """There are no locks: a session that was killed looks alive for a while."""
        return "://" in self.url

    @property
    def copy(self) -> Place:
        """Where a life compacts its store to."""
        return Place(f"{self.url}-compacted", self.options)

    @property
    def compact_options(self) -> dict[str, Any]:
        """The options of both ends of ``compact``."""
        return {"src_options": self.options, "dst_options": self.options}


class Ledger:
    """What a life was told, written by O_APPEND past the store's own storage: it survives the death of its writer.

    ``heard`` is called with each line, for journals that want to know when it was written."""

    def __init__(self, path: str, heard: Callable[[str], None] | None = None) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._heard = heard

    def may(self, state: State) -> None:
        """From now on head may be this."""
        self._write({"may": state.rows, "noted": state.noted})

    def told(self, state: State, version: int | None = None, commit_id: str = "", tag: str | None = None) -> None:
        """The library returned: head is this, and nothing else."""
        self._write({"is": state.rows, "noted": state.noted, "version": version, "commit_id": commit_id, "tag": tag})

    def copied(self) -> None:
        """``compact`` returned."""
        self._write({"copied": True})

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _write(self, line: dict[str, Any]) -> None:
        text = json.dumps(line)
        os.write(self._file, text.encode() + b"\n")
        if self._heard is not None:
            self._heard(text)


@dataclass
class Account:
    """What a ledger says at its end."""

    head: list[State] = field(default_factory=lambda: [State()])        # head is one of these
    ever: set[State] = field(default_factory=lambda: {State()})         # every version is one of these
    versions: dict[int, tuple[State, str]] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)
    exists: bool = False                                                # a commit was acknowledged
    copied: bool = False                                                # so was the end of ``compact``

    @classmethod
    def of(cls, lines: Iterable[str]) -> Account:
        """Of the ledger's lines, the oldest first; a torn last line was told to nobody."""
        self = cls()
        for text in lines:
            try:
                self._hear(json.loads(text))
            except ValueError:
                break
        return self

    def _hear(self, line: dict[str, Any]) -> None:
        if "copied" in line:
            self.copied = True
            return
        state = State(tuple(sorted(map(tuple, line["may"] if "may" in line else line["is"]))), line["noted"])
        self.ever.add(state)
        if "may" in line:
            self.head.append(state)
            return
        self.head = [state]
        if line["version"] is not None:
            self.exists = True
            self.versions[line["version"]] = (state, line["commit_id"])
        if line["tag"] is not None:
            self.tags[line["tag"]] = line["version"]


class Life:
    """One writer's verbs, each written into the ledger before and after. ``state`` is what is committed."""

    def __init__(self, place: Place, ledger: Ledger, *, codec: str = "raw", strings: bool = False,
                 rows_per_shard: int = 8) -> None:
        self.place, self.ledger, self.strings = place, ledger, strings
        self.state = State()
        self._new: dict[str, Any] = {"codec": codec, "rows_per_shard": rows_per_shard}
        self._pending: dict[zstore.Writer, list[Row]] = {}
        self.next = 0
        self.take = 0

    def open(self, **options: Any) -> zstore.Writer:
        """A writer of the store, which the first one makes."""
        writer = zstore.Writer(self.place.url, commit_every_s=None, storage_options=self.place.options,
                               **(self._new if not self.state.rows else {}), **options)
        self._pending[writer] = []
        return writer

    def append(self, writer: zstore.Writer, count: int, *, epoch: int = 0, note: bool = False) -> None:
        """So many rows with new numbers."""
        rows = [(self.next + i, epoch, self.take) for i in range(count)]
        self.next += count
        fields = {"note": notes_of(rows)} if note else {}
        writer.append([id_of(n, self.strings) for n, _, _ in rows], vectors_of(rows), epoch=epoch, **fields)
        self._pending[writer] += rows

    def commit(self, writer: zstore.Writer, tag: str | None = None) -> zstore.Commit:
        """Commit; it must be told wholly."""
        after = self._with(self._pending[writer])
        self.ledger.may(after)
        commit = writer.commit(tag=tag)
        assert commit is not None
        self._pending[writer] = []
        self._told(after, commit, tag)
        return commit

    def close(self, writer: zstore.Writer) -> None:
        """Close, which commits."""
        after = self._with(self._pending.pop(writer))
        self.ledger.may(after)
        writer.close()
        self.state = after
        self.ledger.told(after)

    def add_note(self, writer: zstore.Writer) -> None:
        """The field ``note`` for the rows there are, pending ones too."""
        plain = self._with(self._pending[writer])
        after = State(plain.rows, True)
        self.ledger.may(plain)
        self.ledger.may(after)
        commit = writer.add_field("note", notes_of(plain.rows), fill=-1)
        self._pending[writer] = []
        self._told(after, commit, None)

    def roll_back(self, state: State, act: Callable[[], Any]) -> Any:
        """``act`` rolls the store back to a version of this state; what it gives is given back."""
        self.ledger.may(state)
        given = act()
        self.state = state
        self.take += 1
        self.ledger.told(state)
        return given

    def erase(self, numbers: list[int]) -> None:
        """Delete the rows of these numbers."""
        after = State(tuple(row for row in self.state.rows if row[0] not in numbers), self.state.noted)
        self.ledger.may(after)
        commit = zstore.delete(self.place.url, [id_of(number, self.strings) for number in numbers],
                               storage_options=self.place.options)
        self._told(after, commit, None)

    def copy(self) -> None:
        """Compact into the folder beside the store."""
        zstore.compact(self.place.url, self.place.copy.url, **self.place.compact_options)
        self.ledger.copied()

    def collect(self, place: Place | None = None) -> None:
        """Remove litter, which is of no row."""
        place = place or self.place
        zstore.gc(place.url, storage_options=place.options)

    def _with(self, rows: list[Row]) -> State:
        return State(tuple(sorted((*self.state.rows, *rows))), self.state.noted)

    def _told(self, state: State, commit: zstore.Commit, tag: str | None) -> None:
        self.state = state
        self.ledger.told(state, commit.version, commit.commit_id, tag)


def copy_of(url: str) -> str:
    """Where a life compacts its store to."""
    return f"{url}-compacted"
