"""The source as a run takes it: read, cut into passages, looked at."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any

from zstore.embed.again import Retry
from zstore.embed.check import checked
from zstore.embed.failing import TWICE, failed
from zstore.embed.hashes import Table, hash_id, hash_text
from zstore.embed.passages import OFFSET, PARENT, split
from zstore.embed.sources import read
from zstore.embed.types import Failure, Item

PASSAGE_FIELDS = {PARENT: "string", OFFSET: "int64"}      # with their types


def texts_of(source: Any, *, id: str = "id", text: str = "text", keep: Sequence[str] = (), format: str | None = None,
             passages: int | None = None, overlap: int = 0, max_chars: int | None = None,
             source_options: Mapping[str, Any] | None = None,
             to: str | os.PathLike[str] | None = None) -> Iterator[Item | Failure]:
    """Items with texts, and a Failure for each that has none, in the order of the source. Raises at once what the options, or a
    source that is not there, raise. ``to``: the store that is written, which is no text of its own source."""
    again = source.read if isinstance(source, Retry) else partial(read, source)
    items = again(id=id, text=text, keep=keep, format=format, storage_options=source_options, to=to)
    if passages is not None:
        split(Item("", ""), passages, overlap)      # says what is wrong with the two
        items = _cut(items, passages, overlap)
    elif overlap:
        raise ValueError(f"overlap={overlap} is of passages: say how long they are")
    return checked(items, max_chars=max_chars)


def begun(items: Iterator[Item | Failure]) -> Iterator[Item | Failure]:
    """The same items; the first one is read at once, and with it what the source's columns are."""
    return chain(list(islice(items, 1)), items)


def _cut(items: Iterable[Item | Failure], size: int, overlap: int) -> Iterator[Item | Failure]:
    seen = Table()          # hashes of ids and of their texts
    for item in items:
        if isinstance(item, Failure):
            yield item
            continue
        if isinstance(item.text, str) and item.text.strip():        # a blank one fails, and another may come
            key, text = hash_id(item.id), hash_text(item.text, b"") >> 1
            (before,) = seen.get([key])
            if before is not None and before != text:       # else passages of both would stand side by side
                yield failed(item, "check", TWICE)
                continue
            seen.put(key, text)
        yield from split(item, size, overlap)
