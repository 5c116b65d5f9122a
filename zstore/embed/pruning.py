"""What the source has no more: hidden where that was asked for, else counted; and what is left of texts that became shorter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from zstore.embed.hashes import Table, hash_id
from zstore.embed.passages import PARENT
from zstore.embed.resume import Resume
from zstore.embed.types import Failure, Item, Report
from zstore.errors import ZStoreError
from zstore.notices import warn

Prune = bool | Literal["all"]


class Parents:
    """The texts that this run cut into passages. A passage of one of them that did not come is of an older text."""

    def __init__(self) -> None:
        self._read = Table()
        self._last: str | None = None

    def take(self, items: Sequence[Item | Failure]) -> None:
        """The next items of the source, in order."""
        for item in items:
            parent = str(item.fields[PARENT]) if isinstance(item, Item) and PARENT in item.fields else None
            if parent is not None and parent != self._last:
                self._read.put(hash_id(parent), 1)
                self._last = parent

    def forget_last(self) -> None:
        """Whether all passages of the last one came is unknown."""
        if self._last is not None:
            self._read.put(hash_id(self._last), 0)

    def read(self, names: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which of these came."""
        return np.array([found == 1 for found in self._read.get([hash_id(name) for name in names])], np.bool_)


def check_prune(prune: Any, limit: int | None) -> None:
    """ValueError for what ``prune`` can't be."""
    if prune not in (False, True, "all"):
        raise ValueError(f"prune is {prune!r}; it may be True, False or 'all'")
    if prune and limit is not None:
        raise ValueError("prune needs the whole source, so that limit must be left out")


def settle(url: str, report: Report, resume: Resume, parents: Parents | None, prune: Prune, *, whole: bool,
           hide: Callable[[list[Any]], Any]) -> None:
    """Hide with ``hide``, or count. ``whole``: the source was read to its end. Raises ZStoreError, or warns, where more would
    be hidden than a user can have meant."""
    left: list[Any] = []        # hidden in any case: few
    lost: list[Any] = []        # gathered only to be hidden
    absent = 0
    for part in resume.absent():
        ids = part.ids
        older = np.zeros(len(ids), np.bool_) if parents is None else parents.read(part.field(PARENT).tolist())
        left += ids[older].tolist()
        if whole:
            absent += int((~older).sum())
            if prune:
                lost += ids[~older].tolist()
    doubt = _doubt(url, absent, report.seen, resume, prune) if prune and absent else None
    gone = left + lost if doubt is None else left
    if gone:
        hide(gone)              # all at once: each call publishes a version, and between two of them half would be hidden
    report.pruned = len(gone)
    report.absent = len(left) + absent - len(gone)
    if doubt is not None:
        if resume.nameless:
            warn(doubt)
        else:
            raise ZStoreError(doubt)


def _doubt(url: str, absent: int, seen: int, resume: Resume, prune: Prune) -> str | None:
    """Why they are not hidden, in one sentence."""
    if resume.nameless:
        return (f"{url}: {absent:,} rows are not in the source, but {resume.nameless:,} of its items could not be read so far "
                "as to know which rows they are; nothing was hidden: mend them and run it again")
    live = resume.live()
    rows = 0 if live is None else len(live)
    if not seen:
        return (f"{url}: the source holds no items, so none of the {rows:,} rows there was hidden: look at the source, or "
                "delete the rows by their ids")
    if 2 * absent > rows and prune != "all":
        return (f"{url}: {absent:,} of its {rows:,} rows are not in the source, more than half, so none was hidden: look at "
                "the source and at the column of the ids, and if it is meant, run it again with prune=\"all\" (--prune-all)")
    return None
