"""A long text as passages that overlap, each of which knows its parent and where in it it begins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from zstore.embed.types import Item

PARENT, OFFSET = "parent", "offset"
_BLANK = re.compile(r"\s")
_LAST_BLANK = re.compile(r"\s(?=\S*\Z)")


def split(item: Item, size: int, overlap: int = 0) -> Iterator[Item]:
    """Passages of at most ``size`` characters, with ids ``doc#0``, ``doc#1``, ...; fields: the item's, ``parent`` (its id),
    ``offset`` (in characters: ``text[offset:offset + len(passage)]`` is the passage). Each begins about ``overlap`` characters
    before the last one's end. They are cut between words, where a word ends in the second half of a passage. The cuts depend
    on the text alone; a text of one passage is ``doc#0``. What is no text, or a blank one, is given on as it is.

    ValueError unless 0 <= overlap <= size / 2 and size >= 1.
    """
    if size < 1 or not 0 <= overlap <= size / 2:
        raise ValueError(f"passages are of 1 character or more and overlap by half of that at most, not {size} and {overlap}")
    return _split(item, size, overlap)


def _split(item: Item, size: int, overlap: int) -> Iterator[Item]:
    text = item.text
    if not isinstance(text, str) or not text.strip():
        yield item
        return
    start = number = 0
    while True:
        end = _end(text, start, size)
        if not text[start:end].isspace():
            yield replace(item, id=f"{item.id}#{number}", text=text[start:end],
                          fields={**item.fields, PARENT: item.id, OFFSET: start})
            number += 1
        if end == len(text):
            return
        start = _start(text, start, end, overlap)


def _end(text: str, start: int, size: int) -> int:
    """Where the passage that begins at ``start`` ends: after the last blank of its second half, if there is one."""
    most = start + size
    if most >= len(text):
        return len(text)
    if text[most].isspace():
        return most
    blank = _LAST_BLANK.search(text, start + (size + 1) // 2, most)
    return blank.end() if blank else most


def _start(text: str, start: int, end: int, overlap: int) -> int:
    """Where the next passage begins: at a word within the overlap, if one begins there."""
    if not overlap:
        return end
    at = max(end - overlap, start + 1)
    if text[at - 1].isspace():
        return at
    blank = _BLANK.search(text, at, end - 1)
    return blank.end() if blank else at
