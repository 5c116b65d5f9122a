"""What the tests of a run share: documents of mixed lengths, encoders that count and slow down, and what a store holds."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import zstore
from zstore._typing import Array
from zstore.embed.hashing import HashingEncoder

Docs = list[tuple[str, str]]


def documents(count: int, seed: int = 0) -> Docs:
    """Each id once; of a hundred texts two are equal."""
    rng = random.Random(seed)
    words = [f"w{n}" for n in range(500)]
    texts = [" ".join(rng.choices(words, k=rng.choice((2, 5, 20, 60)))) + f" {n}" for n in range(count)]
    for n in range(50, count, 100):
        texts[n] = texts[n - 50]
    return [(f"doc-{n}", text) for n, text in enumerate(texts)]


def write(path: Path, docs: Iterable[Any]) -> Path:
    """As JSON Lines. Mappings stand as they are."""
    lines = (json.dumps(doc if isinstance(doc, dict) else {"id": doc[0], "text": doc[1]}) for doc in docs)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


class Counting(HashingEncoder):
    """Remembers how many texts it was given, and may raise at one of them."""

    def __init__(self, dim: int = 32, stop_at: int | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        super().__init__(dim)
        self.texts, self._stop_at, self._error = 0, stop_at, error

    def encode(self, tokens: Sequence[Any]) -> Array:
        self.texts += len(tokens)
        if self._stop_at is not None and self.texts >= self._stop_at:
            raise self._error
        return super().encode(tokens)


class Slow(HashingEncoder):
    """Takes its time for each batch; at the batch ``wait_at`` it waits for a line from stdin."""

    def __init__(self, dim: int = 32, wait_at: int | None = None) -> None:
        super().__init__(dim)
        self._left = wait_at

    def encode(self, tokens: Sequence[Any]) -> Array:
        time.sleep(0.01)
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                sys.stdin.readline()
        return super().encode(tokens)


def made(docs: Docs, dim: int = 32) -> dict[Any, bytes]:
    """The right vector of each."""
    encoder = HashingEncoder(dim)
    return {identity: encoder.encode(encoder.tokenize([text])).tobytes() for identity, text in docs}


def held(url: Any) -> dict[Any, bytes]:
    """The latest vector of each id, bit for bit."""
    with zstore.Reader(url) as reader:
        view = reader.latest()
        ids, vectors = view.ids.tolist(), np.asarray(view.vectors)
        assert len(set(ids)) == len(ids)
        return {identity: row.tobytes() for identity, row in zip(ids, vectors, strict=True)}


def rows(url: Any) -> int:
    """Of head; 0 where there is no store yet."""
    try:
        with zstore.Reader(url) as reader:
            return len(reader)
    except FileNotFoundError:
        return 0
