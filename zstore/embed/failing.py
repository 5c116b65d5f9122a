"""Failures: how they are made of whatever the source held, so that they can always be printed and written as JSON."""

from __future__ import annotations

import reprlib
from typing import Any

from zstore.embed.types import Failure, Item

TWICE = "the id comes twice in the source, with another text; the first one counts"
_SAMPLE = 80        # characters of a text that a failure shows


def failed(item: Item, stage: str, reason: str) -> Failure:
    """The failure of this item."""
    return Failure(plain_id(item.id), stage, reason, item.place, sample_of(item.text))


def unread(place: str, reason: str, held: Any = "") -> Failure:
    """The failure of something that never became an item: a line that is no JSON, say. It has no id, only a place."""
    return Failure(None, "source", reason, place, sample_of(held))


def plain_id(id: Any) -> str | int | None:
    """The id as JSON can hold it; None for what is no id."""
    if isinstance(id, str):
        return str(id) if is_unicode(id) else printable(id)
    return int(id) if is_integer(id) else None


def is_integer(value: Any) -> bool:
    """Whether this is an integer, of Python or numpy; True and False are none."""
    return hasattr(value, "__index__") and not isinstance(value, bool) and getattr(value, "ndim", 0) == 0


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can write it: no lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def sample_of(value: Any) -> str:
    """The first characters, on one line and printable."""
    if isinstance(value, bytes):
        value = value[:_SAMPLE].decode("utf-8", "replace")
    elif value is None:
        return ""
    elif not isinstance(value, str):
        value = reprlib.repr(value)
    return printable(value[:_SAMPLE])


def printable(text: str) -> str:
    """The text with every character that no terminal shows replaced."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)
