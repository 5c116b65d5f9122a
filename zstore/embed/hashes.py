"""Hashes of texts and ids, and a table from one to another whose entries wait in a file, not in memory."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from zstore._typing import Int64s

UInt64s = npt.NDArray[np.uint64]
BUFFERED = 4096
FILED = 65_536          # entries: a run of more is kept in a file
_PIECE = 65_536         # entries that are merged at once
_WORD = 8


class Run(NamedTuple):
    """Entries by ascending key, each key once."""

    keys: UInt64s
    values: Int64s


def hash_text(text: str, key: bytes) -> int:
    """64 bits of the text and of what embeds it (``key``, at most 64 bytes)."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest(), "little")


def hash_id(item: Any) -> int:
    """64 bits of an id; ids of one store are of one kind, so 17 and "17" never meet."""
    return int.from_bytes(blake2b(str(item).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class Table:
    """From uint64 to int64, in sorted runs that are merged as they grow. Ten million entries of a dict are a gigabyte; these
    are 160 MB of a file without a name in the folder for temporary files, whose pages the system may take back.

    Of entries with one key the later counts."""

    def __init__(self, keys: UInt64s | None = None, values: Int64s | None = None) -> None:
        self._new: dict[int, int] = {}
        self._runs: list[Run] = []
        if keys is not None and values is not None:
            for at in range(0, len(keys), 4 * FILED):
                self._add(_sorted(keys[at:at + 4 * FILED], values[at:at + 4 * FILED]))

    def put(self, key: int, value: int) -> None:
        self._new[key] = value
        if len(self._new) >= BUFFERED:
            new, self._new = self._new, {}
            self._add(_sorted(np.fromiter(new.keys(), np.uint64, len(new)), np.fromiter(new.values(), np.int64, len(new))))

    def get(self, keys: list[int]) -> list[int | None]:
        """The value of each key, None where it is not there."""
        found: list[int | None] = [None] * len(keys)
        asked = np.array(keys, np.uint64)
        for run, values in self._runs:              # older first, so that a later entry overwrites
            at = np.searchsorted(run, asked)
            at[at == len(run)] = 0
            hits = np.flatnonzero(run[at] == asked)
            for row, value in zip(hits.tolist(), values[at[hits]].tolist(), strict=True):
                found[row] = value
        if self._new:
            for row, key in enumerate(keys):
                value = self._new.get(key)
                if value is not None:
                    found[row] = value
        return found

    def _add(self, run: Run) -> None:
        self._runs.append(run)
        while len(self._runs) > 1 and len(self._runs[-2].keys) <= 2 * len(self._runs[-1].keys):
            self._runs[-2:] = [_merged(*self._runs[-2:])]


def _sorted(keys: UInt64s, values: Int64s) -> Run:
    """Of each key the last entry."""
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    last = np.append(keys[1:] != keys[:-1], True)
    return Run(keys[last], values[last])


def _merged(old: Run, new: Run) -> Run:
    if len(old.keys) + len(new.keys) > FILED:
        return _filed(_pieces(old, new))
    return _sorted(np.concatenate([old.keys, new.keys]), np.concatenate([old.values, new.values]))


def _pieces(old: Run, new: Run) -> Iterator[Run]:
    """Both as one, some keys at a time."""
    start = other = 0
    while start < len(old.keys) or other < len(new.keys):
        stop = min(start + _PIECE, len(old.keys))
        upto = len(new.keys) if stop == len(old.keys) else int(np.searchsorted(new.keys, old.keys[stop]))
        yield _sorted(np.concatenate([old.keys[start:stop], new.keys[other:upto]]),
                      np.concatenate([old.values[start:stop], new.values[other:upto]]))
        start, other = stop, upto


def _filed(pieces: Iterator[Run]) -> Run:
    """In two files without a name, gone when the arrays are."""
    with tempfile.TemporaryFile() as keys, tempfile.TemporaryFile() as values:
        count = 0
        for piece in pieces:
            keys.write(piece.keys.data)
            values.write(piece.values.data)
            count += len(piece.keys)
        keys.flush()
        values.flush()
        maps = [mmap.mmap(file.fileno(), _WORD * count, access=mmap.ACCESS_READ) for file in (keys, values)]
    return Run(np.frombuffer(maps[0], np.uint64), np.frombuffer(maps[1], np.int64))
