"""What a run remembers of its source and model, so that it can be done again from any folder; and that source, once more."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from zstore.embed import provenance
from zstore.embed.failing import plain_id
from zstore.embed.files import Place
from zstore.embed.sources import read
from zstore.embed.types import Failure, Item


def remembered(source: Any, model: Any) -> dict[str, Any]:
    """``source`` and ``model`` by their names, local ones from the root. None for what can't be named again: stdin, whatever a
    caller gives, a function, a URL that holds credentials. ``typed``: the source's names as they were given, where these
    differ; text files have them for ids."""
    names = _names(source)
    named = isinstance(model, (str, os.PathLike))
    found: dict[str, Any] = {"source": None, "model": provenance.name_of(model) if named else None}
    if names is None:
        return found
    paths = [_absolute(name) for name in names]
    one = isinstance(source, (str, os.PathLike))
    found["source"] = paths[0] if one else paths
    return found if paths == names else {**found, "typed": names[0] if one else names}


def same(one: Any, other: Any) -> bool:
    """Whether two remembered sources are one. None is never the same as another None."""
    return one is not None and other is not None and _normal(one) == _normal(other)


class Retry:
    """A source for ``embed``: of a remembered one the items that the ledger names, by id, or by place where they had none. If
    any had none, every item, for it may stand elsewhere now: what the store holds costs nothing."""

    def __init__(self, run: Mapping[str, Any], failures: Iterable[Failure], *, cut: bool) -> None:
        """``run`` is of ``remembered``; ``cut``: texts are cut into passages, so that the ledger may say doc#3 of doc."""
        self._paths = _several(run["source"])
        typed = list(zip(self._paths, _several(run.get("typed", self._paths)), strict=True))
        self._folder = next((path.removesuffix(name) for path, name in typed if path != name), "")      # where it was typed
        self._from_root = tuple(path for path, name in typed if path == name)
        self._entries: dict[str, set[str]] = {}     # id of an item -> ids of entries
        self.nameless: set[str] = set()             # places of entries without an id
        for failure in failures:
            if failure.id is None:
                self.nameless.add(failure.place)
                continue
            id = str(failure.id)
            for name in {id, id.rpartition("#")[0]} if cut and "#" in id else {id}:
                self._entries.setdefault(name, set()).add(id)
        self.met: set[str] = set()                  # ids of entries
        self.there: set[str] = set()                # those places that gave something
        self.named: set[str] = set()                # those that gave something with an id
        self.others = 0                             # items that no entry names

    def read(self, **how: Any) -> Iterator[Item | Failure]:
        """With the ids and places that they had in that run, from whatever folder. ``how`` is of ``sources.read``, which raises
        at once."""
        items = read(self._paths if len(self._paths) > 1 else self._paths[0], **how)
        return self._chosen(map(self._as_typed, items) if self._folder else items)

    def _as_typed(self, item: Item | Failure) -> Item | Failure:
        if not item.place.startswith(self._folder) or item.place.startswith(self._from_root):
            return item
        place = item.place.removeprefix(self._folder)
        is_path = item.id == os.path.normpath(item.place)       # of a text file
        return replace(item, id=os.path.normpath(place) if is_path else item.id, place=place)

    def _chosen(self, items: Iterable[Item | Failure]) -> Iterator[Item | Failure]:
        for item in items:
            id = plain_id(item.id)
            mine = self._entries.get(str(id), set()) if id is not None else set()
            self.met |= mine
            if item.place in self.nameless:
                self.there.add(item.place)
                if id is not None:
                    self.named.add(item.place)
            elif not mine and isinstance(item, Item) and id is not None:
                self.others += 1
            if mine or self.nameless:
                yield item


def _names(source: Any) -> list[str] | None:
    several = list(source) if isinstance(source, (list, tuple)) else [source]
    names = [os.fspath(one) for one in several if isinstance(one, (str, os.PathLike))]
    if len(names) < len(several) or not names or "-" in names:
        return None
    places = [Place.named(name) for name in names]
    return None if any(place.remote and place.path != place.shown for place in places) else [place.path for place in places]


def _absolute(name: str) -> str:
    # Not made normal: what was typed stays its end.
    return name if "://" in name else os.path.join(os.getcwd(), name)


def _normal(source: Any) -> list[str]:
    return [path if "://" in path else os.path.normpath(path) for path in _several(source)]


def _several(source: Any) -> list[str]:
    return [source] if isinstance(source, str) else list(source)
