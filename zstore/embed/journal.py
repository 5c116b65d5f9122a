"""What failed in this run and what was mended, on its way to the ledger."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from zstore.embed.again import Retry, remembered
from zstore.embed.check import named
from zstore.embed.failing import plain_id
from zstore.embed.ledger import Ledger
from zstore.embed.types import Failure
from zstore.errors import ZStoreError

AT_ONCE = 1000      # failures that wait in memory


class Journal:
    """Collects, and writes when it is told to: failures at any time, for nothing is lost by one too many; what was mended only
    when its rows are committed. ``on_bad``: "quarantine" writes failures down, "skip" forgets them, "fail" raises.
    ``cut``: texts are cut into passages, and doc#0 mends doc."""

    def __init__(self, url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None, on_bad: str, most: int | None,
                 epoch: int = 0, *, cut: bool = False) -> None:
        self._on_bad, self._most, self._epoch, self._cut = on_bad, most, epoch, cut
        self._ledger = Ledger(url, storage_options)
        self._run: dict[str, Any] | None = None
        self._open: dict[str, Any] = {}             # ids of entries that did not come yet
        self._parents: set[str] = set()             # of their passages, and they themselves
        self._came: set[str] = set()                # those parents of which a passage has its vector
        self._bad: set[str] = set()                 # ids of entries that failed in this run
        self._ours: set[str] = set()                # ids that runs of this source wrote down
        self._places: set[str] = set()              # of what never had an id, in this source
        self._new: list[Failure] = []
        self._mended: dict[str, Any] = {}
        self._count = 0

    def remember(self, source: Any, model: Any, **options: Any) -> None:
        """What would run this again, as far as it can be named. A retry leaves what the last run remembered."""
        if not isinstance(source, Retry):
            given = {name: value for name, value in options.items() if value is not None}
            self._run = {**remembered(source, model), **given}

    def begin(self, *, ours: bool) -> None:
        """Read the ledger, now that no other writer lives: an earlier one may have written until then. ``ours``: the store was
        there, so that no other process is just making it."""
        source = None if self._run is None else self._run["source"]
        for failure, mine in self._ledger.entries(self._epoch, source):
            if failure.id is not None:
                self._open[str(failure.id)] = failure.id
                if mine:
                    self._ours.add(str(failure.id))
            elif mine:
                self._places.add(failure.place)
        if self._cut:
            self._parents = {*self._open, *map(_parent, self._open)}
        if ours:
            self.flush()

    def failed(self, failure: Failure) -> int:
        """One more; gives how many go to the ledger. Raises ZStoreError where that is one too many."""
        self._count += 1
        if self._on_bad == "fail":
            raise ZStoreError(f"{named(failure)}: {failure.reason} (on_bad=\"fail\")")
        id = plain_id(failure.id)
        if id is None:
            self._places.discard(failure.place)
        else:                               # although an earlier item of the source, with the same id, may have its vector
            known = self._open.pop(str(id), self._mended.pop(str(id), None))
            if known is not None or self._on_bad == "quarantine":
                self._bad.add(str(id))
        if self._on_bad == "quarantine":
            self._new.append(replace(failure, epoch=self._epoch))
            if len(self._new) >= AT_ONCE:
                self.flush()
        if self._most is not None and self._count > self._most:
            raise ZStoreError(f"{self._count:,} items failed, and {self._most:,} are allowed; the last one is "
                              f"{named(failure)}: {failure.reason}; what was embedded is committed")
        return int(self._on_bad == "quarantine")

    def coming(self, ids: Iterable[Any], there: Iterable[Any]) -> None:
        """These will have their vectors, and ``there`` of them have: one that failed so far is mended when it is done."""
        for id in map(str, ids if self._bad else ()):
            for key in {id, _parent(id)} if self._cut else {id}:
                if key in self._bad:
                    self._bad.remove(key)
                    self._open[key] = key
                    self._parents |= {key, _parent(key)} if self._cut else set()
        self.done(there)

    def done(self, ids: Iterable[Any]) -> None:
        """These have their vectors, or will with the next commit: should the ledger name one, it is mended."""
        if not self._open:
            return
        for id in map(str, ids):
            if id in self._open:
                self._mended[id] = self._open.pop(id)
            if self._cut and _parent(id) in self._parents:
                self._came.add(_parent(id))

    def flush(self) -> None:
        """Write down what failed."""
        if self._run is not None:
            self._ledger.remember(self._run)
        new, self._new = self._new, []
        self._ledger.add(new)

    def settle(self, *, ended: bool) -> None:
        """The rows of all that is done are committed: take it out. ``ended``: nothing of the source was left unread, so that a
        text of which one passage is done has no other entry but those that failed in this run."""
        self.flush()
        ids = list(self._mended.values())
        if ended:
            ids += [self._open.pop(id) for id in list(self._open) if id in self._came or _parent(id) in self._came]
        self._mended = {}
        self._ledger.clear(ids, epoch=self._epoch)

    def finished(self) -> None:
        """The whole source was read, and what is done is committed: what runs of it wrote down and this one did not meet is no
        more in it, or was mended."""
        gone = [id for key, id in self._open.items() if key in self._ours]
        self._ledger.clear(gone, self._places, epoch=self._epoch)


def _parent(id: str) -> str:
    """doc of the passage doc#3."""
    return id.rpartition("#")[0] if "#" in id else id
