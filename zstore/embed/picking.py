"""Which columns of a record are the id, the text and the kept fields, and what is said where one is not there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from zstore.embed.failing import plain_id, printable, sample_of
from zstore.embed.types import Failure, Item

LOOKED_AT = 100         # first records of a source, in which every column must be seen once
_SHOWN = 20             # names of columns in a message

Record = tuple[str, Mapping[str, Any]] | Failure        # its place and its columns


@dataclass(frozen=True)
class Wanted:
    """The names of the columns."""

    id: str = "id"
    text: str = "text"
    keep: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Each once."""
        return list(dict.fromkeys((self.id, self.text, *self.keep)))

    def require(self, there: Iterable[str], shown: str) -> None:
        """ValueError, with the names that there are, where one of ours is not among them."""
        names = [name for name in there if isinstance(name, str)]
        missing = [name for name in self.names if name not in names]
        if missing:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            needed = [name for name in missing if name in (self.id, self.text)]
            way = (". Say which hold the ids and the texts: id=, text= (--id, --text)" if needed else
                   "; keep=(...) (--keep) names those to store beside the vectors")
            raise ValueError(f"{shown} has no column {', '.join(map(repr, needed or missing))}; it has {_listed(names)}{more}"
                             f"{way}")

    def items(self, records: Iterable[Record], shown: str) -> Iterator[Item | Failure]:
        """The records as items. The first of them are looked at together, so that a wrong name is one error and not a failure
        per record; a later record that lacks its id or its text is a failure. A kept field that a record lacks is None."""
        records = iter(records)
        first: list[Record] = []
        there: dict[str, None] = {}
        for record in records:
            first.append(record)
            if not isinstance(record, Failure):
                there.update(dict.fromkeys(record[1]))
            if len(first) >= LOOKED_AT or all(name in there for name in self.names):
                break
        if any(not isinstance(record, Failure) for record in first):
            self.require(there, shown)
        elif len(first) >= LOOKED_AT and isinstance(first[0], Failure):
            raise ValueError(f"{shown} is not of the format it was taken for: not one of its first {LOOKED_AT} records can be "
                             f"read ({first[0].place}: {first[0].reason}). Say which it is: format= (--format)")
        for record in chain(first, records):
            yield record if isinstance(record, Failure) else self._item(*record)

    def _item(self, place: str, columns: Mapping[str, Any]) -> Item | Failure:
        for name in (self.id, self.text):
            if name not in columns:
                id = plain_id(columns.get(self.id))
                return Failure(id, "source", f"there is no {name!r} here, only {_listed(list(columns))}", place,
                               sample_of(columns.get(self.text)))
        fields = {name: columns.get(name) for name in self.keep} if self.keep else {}
        return Item(columns[self.id], columns[self.text], fields, place)


def _listed(names: list[Any]) -> str:
    return ", ".join(printable(str(name)[:60]) for name in names[:_SHOWN]) or "none"
