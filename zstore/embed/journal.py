"""What failed in this run and what was mended, on its way to the ledger."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from zstore.embed.check import named
from zstore.embed.ledger import Ledger
from zstore.embed.types import Failure
from zstore.errors import ZStoreError

AT_ONCE = 1000      # failures that wait in memory


class Journal:
    """Collects, and writes when it is told to. ``on_bad``: "quarantine" writes failures down, "skip" forgets them, "fail"
    raises."""

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None, on_bad: str,
                 most: int | None) -> None:
        self._url, self._on_bad, self._most = url, on_bad, most
        self._ledger = Ledger(url, storage_options)
        old = self._ledger.all()
        self._open = {str(failure.id): failure.id for failure in old if failure.id is not None}
        self._places = {failure.place for failure in old if failure.id is None}     # of what never had an id
        self._new: list[Failure] = []
        self._mended: list[Any] = []
        self._count = 0

    def remember(self, source: Any, model: Any, **options: Any) -> None:
        """What would run this again, where both can be written down."""
        if isinstance(source, (str, os.PathLike)) and isinstance(model, (str, os.PathLike)) and os.fspath(source) != "-":
            given = {name: value for name, value in options.items() if value is not None}
            self._ledger.remember({"source": os.fspath(source), "model": os.fspath(model), **given})

    def failed(self, failure: Failure) -> int:
        """One more; gives how many go to the ledger. Raises ZStoreError where that is one too many."""
        self._count += 1
        if self._on_bad == "fail":
            raise ZStoreError(f"{named(failure)}: {failure.reason} (on_bad=\"fail\")")
        if self._on_bad == "quarantine":
            self._new.append(failure)
            if failure.id is None:
                self._places.discard(failure.place)
            if len(self._new) >= AT_ONCE:
                self.flush()
        if self._most is not None and self._count > self._most:
            raise ZStoreError(f"{self._count:,} items failed, and {self._most:,} are allowed; the last one is "
                              f"{named(failure)}: {failure.reason}; what was embedded is committed")
        return int(self._on_bad == "quarantine")

    def done(self, ids: Iterable[Any]) -> None:
        """These have their vectors: should the ledger name one, it is mended."""
        if self._open:
            self._mended += [self._open.pop(str(identity)) for identity in ids if str(identity) in self._open]

    def flush(self) -> None:
        """Write it down. What was mended goes first: another item of the source may have the same id, and fail."""
        new, self._new = self._new, []
        mended, self._mended = self._mended, []
        if mended:
            self._ledger.clear(mended)
        self._ledger.add(new)

    def finished(self) -> None:
        """The source was read to its end: entries without an id that did not fail again are mended."""
        self.flush()
        if self._places:
            self._ledger.clear(places=self._places)
