"""The lines of a file for csv.reader, which can be taken back where a quote took in lines that are rows of their own."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator

from zstore.embed.files import MOST

TOO_LONG = f"the line is longer than {MOST >> 20} MiB"
_MOST_LINES = 100_000       # of one row
_DELIMITERS = ",;\t|"
_LIKE_ROWS = 20             # lines within one text that are worth a word where nearly all look like rows

Line = tuple[int, str, str]     # its number, its text, what is wrong with it


class Feed:
    """``row`` holds the lines that csv.reader took since ``begin``; a row is given at most 16 MiB and 100,000 lines, as if the
    file ended there. What reading the file raises is raised between rows."""

    def __init__(self, numbered: Iterator[tuple[int, bytes | None]]) -> None:
        # The limit is the process's: it is only ever raised, so that two readers never take it from each other.
        csv.field_size_limit(max(csv.field_size_limit(), MOST))
        self._lines = numbered
        self._again: deque[Line] = deque()
        self._error: Exception | None = None
        self._size = 0
        self.row: list[Line] = []

    @property
    def wrong(self) -> str:
        """What is wrong with a line of the row."""
        return next((wrong for _, _, wrong in self.row if wrong), "")

    def begin(self) -> None:
        """A row begins."""
        self._size, self.row = 0, []

    def back(self) -> None:
        """Give all lines of the row again, but the first."""
        self._again.extendleft(reversed(self.row[1:]))

    def delimiter(self) -> str:
        """Which of , ; tab and | the first line has, if it has but one of them; else the comma. The line is given again."""
        text = next((text for text in self if text.strip()), "")
        self._again.extendleft(reversed(self.row))
        self.begin()
        found = [one for one in _DELIMITERS if one in re.sub(r'"[^"]*"', "", text)]
        return found[0] if len(found) == 1 else ","

    def like_rows(self, delimiter: str, fields: int) -> bool:
        """Whether the lines of the row look like rows of so many fields themselves. A quoted table does too."""
        inner = self.row[1:-1]
        return len(inner) >= _LIKE_ROWS and sum(text.count(delimiter) == fields - 1 for _, text, _ in inner) > 0.9 * len(inner)

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> str:
        if self.row and (self._size > MOST or len(self.row) >= _MOST_LINES):
            raise StopIteration
        line = self._again.popleft() if self._again else self._next()
        self.row.append(line)
        self._size += len(line[1])
        return line[1]

    def _next(self) -> Line:
        try:
            if self._error is not None:
                raise self._error
            number, line = next(self._lines)
        except StopIteration:
            raise
        except Exception as error:
            if not self.row:
                raise
            self._error = error         # the lines that came before it may be rows
            raise StopIteration from None
        text, wrong = ("\n", TOO_LONG) if line is None else decoded(line)
        return number, text, wrong


def decoded(content: bytes, what: str = "the line") -> tuple[str, str]:
    """The text of a line or a file, and what is wrong with it."""
    try:
        return content.decode(), ""
    except UnicodeDecodeError as error:
        return content.decode("utf-8", "replace"), (
            f"{what} is not UTF-8: byte {content[error.start]:#x} at {error.start}; if the file is Latin-1, iconv -f LATIN1 "
            "-t UTF-8 converts it")
