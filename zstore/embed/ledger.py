"""The failure ledger: which items of the source have no vector, and why.

It stands beside the store, as ``<url>.failures.jsonl``: one JSON object per line, and of several lines for one item the
last one counts. An item is known by its id; what never had one (a line that is no JSON) by its place. A line
``{"run": {...}}`` holds what ``zstore failures retry`` needs to run the embedding again. An entry that was mended is taken
out, and a ledger without entries is removed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from zstore.embed.failing import plain_id, sample_of
from zstore.embed.files import Place
from zstore.embed.types import Failure

SUFFIX = ".failures.jsonl"
_FIELDS = ("id", "stage", "reason", "place", "sample")


class Ledger:
    """The ledger of the store at this URL. Makes no request and no file before it has to. One process writes it at a time.

    ``run`` is what the last run remembered (None: nothing), as embed's keyword arguments, ``source`` among them.
    """

    def __init__(self, url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> None:
        self._place = Place.of(os.fspath(url).rstrip("/") + SUFFIX, storage_options)
        self._known: dict[tuple[str, str], Failure] | None = None
        self._run: dict[str, Any] | None = None

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
        """What would embed the same source again, as JSON can hold it. Written with the next failure."""
        entries = self._entries()
        if dict(run) != self._run:
            self._run = dict(run)
            if entries:
                self._append([_line({"run": self._run})])

    def add(self, failures: Iterable[Failure]) -> None:
        """Write these down; durable when it returns. An older entry of the same item is replaced."""
        plain = [replace(f, id=plain_id(f.id), sample=sample_of(f.sample)) for f in failures]
        entries, new = self._entries(), {_key(failure): failure for failure in plain}
        lines = [_line({name: getattr(failure, name) for name in _FIELDS}) for failure in new.values()]
        if not lines:
            return
        if not entries and self._run is not None:
            lines.insert(0, _line({"run": self._run}))
        self._append(lines)
        entries.update(new)

    def clear(self, ids: Iterable[Any] = (), places: Iterable[str] = ()) -> int:
        """Take out the entries of these ids, and those without an id of these places; gives how many there were. Costs
        nothing for ids that have no entry."""
        entries = self._entries()
        if not entries:
            return 0
        wanted = {("id", str(id)) for id in ids} | {("place", place) for place in places}
        gone = [key for key in wanted if entries.pop(key, None) is not None]
        if gone:
            self._rewrite()
        return len(gone)

    def all(self) -> list[Failure]:
        """Every entry, in the order in which the items first failed."""
        return list(self._entries().values())

    def _entries(self) -> dict[tuple[str, str], Failure]:
        if self._known is None:
            self._known = {}
            for line in (self._place.read_whole() or b"").split(b"\n"):
                self._take(line)
        return self._known

    def _take(self, line: bytes) -> None:
        assert self._known is not None
        try:
            held = json.loads(line)
        except ValueError:
            return              # the end of a line that a crash cut short: its item fails again in the next run
        if isinstance(held, dict) and "run" in held:
            self._run = held["run"]
        elif isinstance(held, dict) and "reason" in held:
            failure = Failure(**{name: held.get(name, "") for name in _FIELDS})
            self._known[_key(failure)] = failure

    def _append(self, lines: list[bytes]) -> None:
        self._place.append(b"".join(lines))

    def _rewrite(self) -> None:
        assert self._known is not None
        if not self._known:
            self._place.remove()
            return
        lines = [] if self._run is None else [_line({"run": self._run})]
        lines += [_line({name: getattr(failure, name) for name in _FIELDS}) for failure in self._known.values()]
        self._place.write_whole(b"".join(lines))


def _key(failure: Failure) -> tuple[str, str]:
    # A store of strings holds the integer 17 as "17": they are one item.
    return ("place", failure.place) if failure.id is None else ("id", str(failure.id))


def _line(held: Mapping[str, Any]) -> bytes:
    return json.dumps(held, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace") + b"\n"
