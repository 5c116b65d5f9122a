"""The failure ledger: which items of the source could not be embedded, and why.

It stands beside the store, as ``<url>.failures.jsonl``: one JSON object per line, and of several lines for one item the
last one counts. An item is known by its epoch and its id; what never had an id (a line that is no JSON) by its place. A line
``{"run": {...}}`` holds what ``zstore failures retry`` needs to run the embedding again, and the lines behind it were written
by runs of its source. An entry that was mended is taken out, and a ledger without entries is removed. See FORMAT.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from zstore.embed.again import same
from zstore.embed.failing import plain_id, sample_of
from zstore.embed.files import LEDGER, Place
from zstore.embed.types import Failure

_FIELDS = ("id", "stage", "reason", "place", "sample", "epoch")
Key = tuple[str, str, int]      # "id" or "place", which one, epoch
_Run = dict[str, Any]


def key_of(failure: Failure) -> Key:
    """What an entry is known by."""
    # A store of strings holds the integer 17 as "17": they are one item.
    return ("place", failure.place, failure.epoch) if failure.id is None else ("id", str(failure.id), failure.epoch)


class Ledger:
    """The ledger of the store at this URL. Makes no request and no file before it has to. One process writes it at a time.

    ``run`` is what the last run remembered (None: nothing), as embed's keyword arguments, ``source`` among them; None as its
    source or model is one that can't be named again.
    """

    def __init__(self, url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> None:
        self._place = Place.of(os.fspath(url).rstrip("/") + LEDGER, storage_options)
        self._known: dict[Key, tuple[Failure, _Run | None]] | None = None       # with the run that wrote it down
        self._run: _Run | None = None

    def __len__(self) -> int:
        return len(self._entries())

    @property
    def url(self) -> str:
        """Where it is, as it may be printed."""
        return self._place.shown

    @property
    def run(self) -> dict[str, Any] | None:
        self._entries()
        return self._run

    def remember(self, run: Mapping[str, Any]) -> None:
        """What would embed the same source again, as JSON can hold it. Written with the next failure, or at once where there
        are some."""
        entries = self._entries()
        if dict(run) != self._run:
            self._run = dict(run)
            if entries:
                self._place.append(_line({"run": self._run}))

    def add(self, failures: Iterable[Failure]) -> None:
        """Write these down; durable when it returns. An older entry of the same item is replaced."""
        entries = self._entries()
        plain = [replace(f, id=plain_id(f.id), sample=sample_of(f.sample)) for f in failures]
        new = {key_of(failure): (failure, self._run) for failure in plain}
        lines = [_entry(failure) for key, (failure, run) in new.items() if entries.get(key) != (failure, run)]
        if not lines:
            return
        if not entries and self._run is not None:
            lines.insert(0, _line({"run": self._run}))
        self._place.append(b"".join(lines))
        entries.update(new)

    def clear(self, ids: Iterable[Any] = (), places: Iterable[str] = (), *, epoch: int = 0) -> int:
        """Take out the entries of these ids, and those without an id of these places; gives how many there were. Costs
        nothing for ids that have no entry."""
        if not self._entries():
            return 0
        wanted = {("id", str(id), epoch) for id in ids} | {("place", place, epoch) for place in places}
        if not wanted & self._entries().keys():
            return 0
        run, self._known = self._run, None      # the next run may have begun, and have written
        entries = self._entries()
        self._run = self._run or run
        gone = [key for key in wanted if entries.pop(key, None) is not None]
        if gone:
            self._rewrite()
        return len(gone)

    def all(self) -> list[Failure]:
        """Every entry, in the order in which the items first failed."""
        return [failure for failure, _ in self._entries().values()]

    def entries(self, epoch: int, source: Any) -> list[tuple[Failure, bool]]:
        """Every entry of the epoch, and whether runs of this source wrote it: one as ``run`` names it, None for none."""
        return [(failure, run is not None and same(run.get("source"), source))
                for failure, run in self._entries().values() if failure.epoch == epoch]

    def _entries(self) -> dict[Key, tuple[Failure, _Run | None]]:
        if self._known is None:
            self._known, self._run = {}, None
            for line in (self._place.read_whole() or b"").split(b"\n"):
                self._take(line)
        return self._known

    def _take(self, line: bytes) -> None:
        assert self._known is not None
        try:
            held = json.loads(line)
        except ValueError:
            return              # the end of a line that a crash cut short: its item fails again in the next run
        if isinstance(held, dict) and isinstance(held.get("run"), dict):
            self._run = held["run"]
        elif isinstance(held, dict) and "reason" in held:
            failure = Failure(**{name: held.get(name, 0 if name == "epoch" else "") for name in _FIELDS})
            self._known[key_of(failure)] = failure, self._run

    def _rewrite(self) -> None:
        assert self._known is not None
        if not self._known:
            self._place.remove()
            return
        self._place.write_whole(b"".join(self._lines(self._known.values())))

    def _lines(self, entries: Iterable[tuple[Failure, _Run | None]]) -> Iterator[bytes]:
        said: _Run | None = None
        for failure, run in entries:
            if run is not None and run != said:
                yield _line({"run": run})
                said = run
            yield _entry(failure)
        if self._run is not None and self._run != said:
            yield _line({"run": self._run})


def _entry(failure: Failure) -> bytes:
    return _line({name: getattr(failure, name) for name in _FIELDS})


def _line(held: Mapping[str, Any]) -> bytes:
    return json.dumps(held, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace") + b"\n"
