"""Hashes of texts and ids, and a table from one to another that grows by 16 bytes an entry."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from zstore._typing import Int64s

UInt64s = npt.NDArray[np.uint64]
BUFFERED = 4096


def hash_text(text: str, key: bytes) -> int:
    """64 bits of the text and of what embeds it (``key``, at most 64 bytes)."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest(), "little")


def hash_id(item: Any) -> int:
    """64 bits of an id; ids of one store are of one kind, so 17 and "17" never meet."""
    return int.from_bytes(blake2b(str(item).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class Table:
    """From uint64 to int64, in sorted runs that are merged as they grow: ten million entries of a dict are a gigabyte, these
    are 160 MB.

    Of entries with one key the later counts."""

    def __init__(self, keys: UInt64s | None = None, values: Int64s | None = None) -> None:
        self._new: dict[int, int] = {}
        self._runs: list[tuple[UInt64s, Int64s]] = []
        if keys is not None and values is not None and len(keys):
            self._runs.append(_sorted(keys, values))

    def put(self, key: int, value: int) -> None:
        self._new[key] = value
        if len(self._new) >= BUFFERED:
            self._settle()

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

    def _settle(self) -> None:
        keys = np.fromiter(self._new.keys(), np.uint64, len(self._new))
        values = np.fromiter(self._new.values(), np.int64, len(self._new))
        self._new = {}
        self._runs.append(_sorted(keys, values))
        while len(self._runs) > 1 and len(self._runs[-2][0]) <= 2 * len(self._runs[-1][0]):
            (older, old), (newer, new) = self._runs[-2:]
            self._runs[-2:] = [_sorted(np.concatenate([older, newer]), np.concatenate([old, new]))]


def _sorted(keys: UInt64s, values: Int64s) -> tuple[UInt64s, Int64s]:
    """By key, each once: its last entry."""
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    last = np.append(keys[1:] != keys[:-1], True)
    return keys[last], values[last]
