"""JSON Lines and CSV: a record per line, read line by line. What can't be read is a failure that names its line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any

from zstore.embed.failing import unread
from zstore.embed.files import MOST, Place, lines
from zstore.embed.picking import Record

_TOO_LONG = f"the line is longer than {MOST >> 20} MiB"


def jsonl(file: Place) -> Iterator[Record]:
    """An object per line; empty lines are passed over."""
    with file.unpacked() as stream:
        for number, line in lines(stream, file.shown):
            place = f"{file.shown} line {number}"
            if line is None:
                yield unread(place, _TOO_LONG)
            elif not line.isspace():
                yield _record(place, line)


def _record(place: str, line: bytes) -> Record:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return unread(place, f"the line is not UTF-8: byte {line[error.start]:#x} at {error.start}", line)
    except json.JSONDecodeError as error:
        return unread(place, f"the line is not JSON: {error.msg} at character {error.pos}", line)
    except (ValueError, RecursionError) as error:       # a number of 5,000 digits; brackets nested a thousand deep
        return unread(place, f"the line is no JSON that can be read: {error}", line)
    if not isinstance(record, dict):
        return unread(place, f"the line holds {type(record).__name__}, where an object with columns is needed", line)
    return place, record


def tables(file: Place, delimiter: str = ",") -> Iterator[Record]:
    """CSV with a header, as RFC 4180 has it: a quoted field may hold delimiters, quotes and line ends. A row with more or fewer
    fields than the header, or with misplaced quotes, is a failure. All values are strings."""
    # The limit is the process's: it is only ever raised, so that two readers never take it from each other.
    csv.field_size_limit(max(csv.field_size_limit(), MOST))
    with file.unpacked() as stream:
        feed = _Feed(lines(stream, file.shown))
        rows = csv.reader(feed, delimiter=delimiter, strict=True)
        header = _header(rows, feed, file.shown)
        while header:
            feed.begin()
            place = f"{file.shown} line {feed.first}"
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                upto = f" (up to line {feed.number})" if feed.number > feed.first else ""
                yield unread(place, f"the row is no CSV{upto}: {feed.wrong or error}", feed.sample)
                continue
            if feed.wrong:
                yield unread(place, feed.wrong, feed.sample)
            elif len(row) == len(header):
                yield place, dict(zip(header, row, strict=True))
            elif row:
                yield unread(place, f"the row has {len(row)} fields, and the header {len(header)}", feed.sample)


class _Feed:
    """The lines of a file for csv.reader, which takes no errors: a line that can't be given is noted in ``wrong``."""

    def __init__(self, numbered: Iterator[tuple[int, bytes | None]]) -> None:
        self._lines = numbered
        self.number, self.first, self.wrong, self.sample = 0, 1, "", ""

    def begin(self) -> None:
        """A row begins."""
        self.first, self.wrong, self.sample = self.number + 1, "", ""

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        self.number, line = next(self._lines)
        text = "\n"
        if line is None:
            self.wrong = _TOO_LONG
        else:
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                self.wrong = f"the row is not UTF-8: byte {line[error.start]:#x}"
                text = line.decode("utf-8", "replace")
        self.sample = self.sample or text[:80]
        return text


def _header(rows: Any, feed: _Feed, shown: str) -> list[str]:
    try:
        header: list[str] = next((row for row in rows if row), [])
    except csv.Error as error:
        raise ValueError(f"the header of {shown} is no CSV: {error}") from None
    if feed.wrong:
        raise ValueError(f"the header of {shown} can't be read: {feed.wrong}")
    names = [name.strip() for name in header]
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise ValueError(f"the header of {shown} names {twice[0]!r} twice")
    return names
