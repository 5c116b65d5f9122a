"""Which of the expected ids each epoch holds: missing, twice, unknown."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from zstore._typing import Array
from zstore.format.keys import StringIds
from zstore.ids import normalise_ids

Expected = Any      # sorted int64, a set of str, or None where nothing is expected
SHOWN = 5       # ids named in a message


@dataclass(frozen=True, eq=False)
class Coverage:
    """One epoch's rows beside the ids that were expected. ``missing``, ``twice`` and ``unknown`` are sorted arrays of ids;
    ``missing`` and ``unknown`` are empty where nothing was expected. ``rows`` counts all rows of the epoch."""

    epoch: int
    rows: int
    missing: Array
    twice: Array
    unknown: Array

    @property
    def exact(self) -> bool:
        """Every expected id once, and no other."""
        return not (len(self.missing) or len(self.twice) or len(self.unknown))

    def __repr__(self) -> str:
        parts = [f"{len(found)} {name} ({', '.join(map(str, found[:SHOWN]))}{', ...' if len(found) > SHOWN else ''})"
                 for name, found in (("missing", self.missing), ("twice", self.twice), ("unknown", self.unknown)) if len(found)]
        return f"epoch {self.epoch}: {self.rows} rows, " + (", ".join(parts) or "each once")


def cover(epoch: int, ids: Array, expected: Expected) -> Coverage:
    """``ids``: of all rows of the epoch. ``expected``: what ``expected_ids`` made, or None. Time and memory are linear."""
    if ids.dtype.kind == "T" or isinstance(expected, set):
        return _cover_strings(epoch, ids, expected)
    seen, counts = np.unique(ids, return_counts=True)
    if expected is None:
        return Coverage(epoch, len(ids), seen[:0], seen[counts > 1], seen[:0])
    return Coverage(epoch, len(ids), _without(expected, seen), seen[counts > 1], _without(seen, expected))


def _cover_strings(epoch: int, ids: Array, expected: Expected) -> Coverage:
    # By hash: numpy compares each string with each to find one array's strings in another.
    seen = Counter(ids.tolist())
    wanted = seen.keys() if expected is None else expected
    named = [np.array(sorted(found), np.dtypes.StringDType()) for found in (
        wanted - seen.keys(), (id for id, count in seen.items() if count > 1), seen.keys() - wanted)]
    return Coverage(epoch, len(ids), *named)


def expected_ids(expected: Any, strings: bool | None) -> Expected:
    """The distinct ids that are expected: sorted int64, or a set of str. An int n is 0..n-1. ``strings`` says what the
    store holds; None where it is not there yet.

    TypeError or ValueError, as from ``append``, for what is no list of ids, or of the other kind than the store's."""
    if expected is None:
        return None
    if isinstance(expected, (int, np.integer)) and not isinstance(expected, bool):
        if strings or expected < 0:
            raise ValueError(f"expected is the number {expected}, which stands for the ids 0 to n-1" +
                             (", but this store's ids are strings: pass the ids themselves" if strings else ""))
        return np.arange(int(expected))
    if isinstance(expected, (set, frozenset, dict)):
        expected = list(expected)
    found = normalise_ids(expected, strings)
    if isinstance(found, StringIds):
        return set(found.to_list())
    ordered = np.sort(found)
    return ordered[np.diff(ordered, prepend=ordered[:1] - 1) != 0]


def _without(these: Array, others: Array) -> Array:
    """Those that are not among the others; both sorted, each once."""
    if not len(others):
        return these
    at = np.minimum(np.searchsorted(others, these), len(others) - 1)
    left: Array = these[others[at] != these]
    return left
