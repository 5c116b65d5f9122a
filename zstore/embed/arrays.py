"""JSON that is not one record per line: an array of objects, or objects over several lines, read piece by piece."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator

from zstore.embed.failing import unread
from zstore.embed.files import MOST
from zstore.embed.picking import Record

_BLOCK = 1 << 20
_HEAD = 4096
# "[" before an object or at the end of a line, or "{" alone on its line: so no line of JSON Lines begins.
_BEGINS = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:\[\s*(?:\{|\]|$)|\{\s*(?:\r?\n|$))")
_BETWEEN = re.compile(r"[\s,\]]*")


def is_array(stream: io.BufferedReader) -> bool:
    """Whether the stream begins like an array, or like an object over several lines. Reads nothing away."""
    try:
        head = stream.peek(_HEAD)[:_HEAD]
    except Exception:           # whoever reads on meets it again, and says where
        return False
    return _BEGINS.match(head) is not None


def values(stream: io.BufferedReader, shown: str) -> Iterator[Record]:
    """The objects of an array, or one after the other, counted from 0 in messages. ValueError with the number of the item
    where it is no JSON: where the next one begins can't be told then."""
    decoder, text, at, number = json.JSONDecoder(), _Text(stream, shown), 0, 0
    held = re.sub(r"^\s*\[", "", text.more().lstrip("\ufeff"))
    while True:
        gap = _BETWEEN.match(held, at)
        at = gap.end() if gap else at
        try:
            value, end = decoder.raw_decode(held, at)
        except (ValueError, RecursionError) as error:
            more = "" if len(held) - at > MOST else text.more()
            if more:
                held, at = held[at:] + more, 0
                continue
            if at == len(held):
                return
            raise ValueError(f"{shown} is no JSON from item {number} on ({error}); read as JSON Lines, a record per line, one "
                             "bad line costs no other: jq -c '.[]' FILE > FILE.jsonl") from None
        at, place = end, f"{shown} item {number}"
        number += 1
        if isinstance(value, dict):
            yield place, value
        else:
            yield unread(place, f"this is {type(value).__name__}, where an object with columns is needed", value)


class _Text:
    """The stream as text, a block at a time; a byte that is no UTF-8 is half a character, which is found in its item."""

    def __init__(self, stream: io.BufferedReader, shown: str) -> None:
        self._stream, self._shown = stream, shown
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def more(self) -> str:
        """Some characters; none at the end."""
        while True:
            try:
                block = self._stream.read1(_BLOCK)
            except Exception as error:
                raise OSError(f"{self._shown} is cut short or damaged: {error}") from error
            found = self._decoder.decode(block, final=not block)
            if found or not block:
                return found
