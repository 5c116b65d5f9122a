"""Texts that no model can make sense of, told apart before it sees them: each is a failure, and none costs its neighbours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from zstore.embed.failing import failed, is_unicode, plain_id
from zstore.embed.types import Failure, Item

ON_BAD = ("quarantine", "skip", "fail")
# Any character that is neither blank, control, nor invisible by itself (soft hyphen, zero width, direction marks, BOM).
_VISIBLE = re.compile(r"[^\s\x00-\x1f\x7f-\x9f\u00ad\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]")


def checked(items: Iterable[Item | Failure], *, on_bad: str = "quarantine", max_chars: int | None = None
            ) -> Iterator[Item | Failure]:
    """The items whose text is a string that shows something. For every other, and for what the source could not read:
    "quarantine" gives its Failure, "skip" nothing, "fail" raises ValueError naming it. ``max_chars``: a longer text is bad.

    Ids and kept fields are not looked at; whether they fit depends on the store."""
    if on_bad not in ON_BAD:
        raise ValueError(f"on_bad is one of {', '.join(ON_BAD)}, not {on_bad!r}")
    if max_chars is not None and max_chars < 1:
        raise ValueError(f"max_chars is a number of characters, 1 or more, or None, not {max_chars!r}")
    return _checked(items, on_bad, max_chars)


def _checked(items: Iterable[Item | Failure], on_bad: str, max_chars: int | None) -> Iterator[Item | Failure]:
    for item in items:
        if isinstance(item, Item):
            reason = wrong_with(item.text, max_chars)
            if reason is None:
                yield item
                continue
            item = failed(item, "check", reason)
        if on_bad == "fail":
            raise ValueError(f"{named(item)}: {item.reason}")
        if on_bad == "quarantine":
            yield item


def wrong_with(text: Any, max_chars: int | None = None) -> str | None:
    """Why this is no text for a model, in one sentence; None if it is one."""
    if not isinstance(text, str):
        return _not_text(text)
    if not text:
        return "the text is empty"
    if _VISIBLE.search(text) is None:
        return "the text is blank" if text.isspace() else "the text has no visible character"
    if "\0" in text:
        return "the text holds a NUL character, as binary files and UTF-16 do"
    if not is_unicode(text):
        return "the text holds a lone surrogate, which is half a character"
    if max_chars is not None and len(text) > max_chars:
        return f"the text has {len(text):,} characters, and {max_chars:,} are the most"
    return None


def _not_text(value: Any) -> str:
    if value is None:
        return "there is no text, only null"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"the text is {type(value).__name__}, not str; decode it first"
    if isinstance(value, float) and value != value:
        return "there is no text, only NaN"
    return f"the text is of type {type(value).__name__}, not str"


def named(failure: Failure) -> str:
    """Which item a failure is of, for a message: its place, its id, or both."""
    id = plain_id(failure.id)
    if id is None:
        return failure.place or "an item without an id"
    return f"{failure.place} (id {id!r})" if failure.place else f"id {id!r}"
