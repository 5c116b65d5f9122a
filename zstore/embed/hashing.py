"""An encoder of nothing but numpy, for tests and first steps: texts that share words come out near each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import numpy as np

from zstore._typing import Array

_PLACES = 4         # of each word in the vector
_ODD = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class HashingEncoder:
    """Each word adds +1 or -1 at four places that its hash names; the sum has length 1. The same text gives the same bits on
    every machine, however it is batched."""

    dtype = "float32"
    max_tokens = 512

    def __init__(self, dim: int = 384) -> None:
        """``dim``: 1 to 65,536, else ValueError."""
        if not 1 <= dim <= 65_536:
            raise ValueError(f"a hashing encoder has 1 to 65,536 dimensions, not {dim}")
        self.dim = dim

    def provenance(self) -> dict[str, Any]:
        return {"kind": "hash", "dim": self.dim, "places": _PLACES, "max_tokens": self.max_tokens}

    def tokenize(self, texts: Sequence[str]) -> list[Any]:
        """Of each text (words,) uint32: CRC-32 of its lower-case words. A text without words is one word."""
        return [np.array([crc32(word.encode()) for word in (text.lower().split() or [text])[:self.max_tokens]], np.uint32)
                for text in texts]

    def encode(self, tokens: Sequence[Any]) -> Array:
        """(n, dim) float32."""
        if not tokens:
            return np.zeros((0, self.dim), np.float32)
        rows = np.repeat(np.arange(len(tokens)), [len(each) for each in tokens])
        places, signs = _mixed(np.concatenate(tokens), self.dim)
        at = (rows[:, None] * self.dim + places).ravel()
        sums: Array = np.bincount(at, weights=signs.ravel(), minlength=len(tokens) * self.dim).reshape(-1, self.dim)
        # Sums of ones are exact in any order; one place of a word may undo another, so that nothing is left.
        sums[~sums.any(axis=1), 0] = 1
        lengths = np.sqrt(np.square(sums).sum(axis=1, keepdims=True))
        found: Array = (sums / lengths).astype(np.float32)
        return found

    def check_exact(self) -> None:
        """It always is."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, MemoryError)


def _mixed(words: Array, dim: int) -> tuple[Array, Array]:
    """(words, 4) places and signs of (words,) hashes: the finish of splitmix64, which scatters near numbers far."""
    steps = np.arange(1, _PLACES + 1, dtype=np.uint64) * np.uint64(_ODD[0])
    z = words.astype(np.uint64)[:, None] + steps[None, :]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_ODD[1])
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_ODD[2])
    z ^= z >> np.uint64(31)
    return (z % np.uint64(dim)).astype(np.int64), np.where(z >> np.uint64(63), -1.0, 1.0)
