"""JSON Lines, TSV and CSV: a record per line, read line by line. What can't be read is a failure that names its line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator

from zstore.embed import arrays
from zstore.embed.failing import unread
from zstore.embed.feed import TOO_LONG, Feed, Line, decoded
from zstore.embed.files import Place, lines
from zstore.embed.picking import Record
from zstore.notices import warn


def jsonl(file: Place) -> Iterator[Record]:
    """An object per line; empty lines are passed over. An array of objects, or objects over several lines, are read too."""
    with file.unpacked() as stream:
        if arrays.is_array(stream):
            yield from arrays.values(stream, file.shown)
            return
        for number, line in lines(stream, file.shown):
            place = f"{file.shown} line {number}"
            if line is None:
                yield unread(place, TOO_LONG)
            elif not line.isspace():
                yield _record(place, line)


def _record(place: str, line: bytes) -> Record:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        return unread(place, decoded(line)[1], line)
    except json.JSONDecodeError as error:
        return unread(place, f"the line is not JSON: {error.msg} at character {error.pos}", line)
    except (ValueError, RecursionError) as error:       # a number of 5,000 digits; brackets nested a thousand deep
        return unread(place, f"the line is no JSON that can be read: {error}", line)
    if not isinstance(record, dict):
        return unread(place, f"the line holds {type(record).__name__}, where an object with columns is needed", line)
    return place, record


def tsv(file: Place) -> Iterator[Record]:
    """A header, and a row per line with tabs between its fields; quotes mean nothing. A row with more or fewer fields than the
    header is a failure. All values are strings."""
    with file.unpacked() as stream:
        header: list[str] = []
        for number, line in lines(stream, file.shown):
            text, wrong = ("", TOO_LONG) if line is None else decoded(line)
            if not (wrong or text.strip("\r\n")):
                continue
            row = text.rstrip("\r\n").split("\t")
            if not header:
                header = _header(row, wrong, file.shown)
            else:
                yield _row((number, text, wrong), row, header, file.shown)


def tables(file: Place) -> Iterator[Record]:
    """CSV with a header, as RFC 4180 has it: a quoted field may hold delimiters, quotes and line ends. Semicolons, tabs or bars
    take the place of commas where they alone are in the header. All values are strings.

    A row with more or fewer fields than the header, with misplaced quotes, or whose quote is not closed by the end of the file
    or within 16 MiB and 100,000 lines, is a failure; where it took several lines, reading goes on at its second line, so that
    an open quote costs no other row. All else is read as it stands. So a quote that was left open by mistake, and that a stray
    one at the end of a later row closes with the right number of fields, can't be told from a long text: it is one row, and of
    the first in a file whose lines look like rows a warning tells."""
    with file.unpacked() as stream:
        feed = Feed(lines(stream, file.shown))
        delimiter = feed.delimiter()
        rows = csv.reader(feed, delimiter=delimiter, strict=True)
        try:
            header = _header(next((row for row in rows if row), []), feed.wrong, file.shown)
        except csv.Error as error:
            raise ValueError(f"the header of {file.shown} is no CSV: {error}") from None
        said = False
        while header:
            feed.begin()
            row: list[str] = []
            reason = ""
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                reason = str(error)
            last = feed.row[-1][0]
            if len(feed.row) > 1 and (reason or len(row) != len(header)):
                reason = (f"a quote is not closed as it should be, up to line {last}: "
                          f"{reason or f'the row has {len(row)} fields, and the header {len(header)}'}")
                feed.back()
            number, text, wrong = feed.row[0]
            if reason:
                yield unread(f"{file.shown} line {number}", wrong or f"the row is no CSV: {reason}", text)
            elif row or feed.wrong:
                told, said = said, said or feed.like_rows(delimiter, len(header))
                yield _row((number, text, feed.wrong), row, header, file.shown)
                if said and not told:
                    warn(f"{file.shown} lines {number} to {last} are one row by their quotes, but look like rows of their own: "
                         f"look whether the quote in line {number} is closed as it should be")


def _row(line: Line, row: list[str], header: list[str], shown: str) -> Record:
    number, text, wrong = line
    place = f"{shown} line {number}"
    if wrong:
        return unread(place, wrong, text)
    if len(row) != len(header):
        return unread(place, f"the row has {len(row)} fields, and the header {len(header)}", text)
    return place, dict(zip(header, row, strict=True))


def _header(row: list[str], wrong: str, shown: str) -> list[str]:
    if wrong:
        raise ValueError(f"the header of {shown} can't be read: {wrong}")
    names = [name.strip() for name in row]
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise ValueError(f"the header of {shown} names {twice[0]!r} twice")
    return names
