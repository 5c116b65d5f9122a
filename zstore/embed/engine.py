"""Texts to vectors, at the speed of the model: a window is tokenized while the one before it is encoded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import numpy as np

from zstore._typing import Array, Int64s
from zstore.embed.budget import Budget
from zstore.embed.plan import padded, plan
from zstore.embed.types import Encoder, Failure

WINDOW, BUDGET = 4096, 8192     # texts; padded tokens, for an encoder that does not say its own
_AHEAD = 2              # windows that are read, and tokenized, before the model asks
_IN_A_ROW = 16          # items that fail one after another, and none succeeds: it is the model, not the items


@dataclass(frozen=True, slots=True)
class Stats:
    """Of one batch: ``tokens`` that the texts have, ``padded`` that the model was given, ``seconds`` in the model, ``waited``
    for the tokenizer before it, ``budget`` that holds now."""

    tokens: int
    padded: int
    seconds: float
    waited: float
    budget: int


Batch: TypeAlias = tuple[list[Any], Array, Stats]


@dataclass(slots=True)
class _Window:
    """Texts by position, their tokens, and those that have none."""

    keys: list[Any]
    texts: list[str]
    tokens: list[Any]
    bad: list[tuple[int, Exception]]


def vectors(texts: Iterator[tuple[Any, str]], encoder: Encoder, *, window: int = WINDOW, budget: int | Budget | None = None,
            exact: bool = False) -> Iterator[Batch | Failure]:
    """Of ``(key, text)`` pairs: batches ``(keys, (n, dim) vectors, stats)`` in an order of their own, and a ``Failure`` with
    the key as its id for each text that has no vector.

    At most three windows of texts are held at a time. ``texts`` is read by the thread that reads the batches. A batch has at
    most ``budget`` padded tokens (None: the encoder's ``budget``, else 8,192); where memory runs out the budget is halved,
    remembered (pass a ``Budget`` to keep it over calls) and grows back slowly. A batch that raises is halved until the item
    that raises stands alone. ``exact``: all texts of a batch have one length in tokens, so that nothing is padded and a text's
    vector hangs on the text alone; an encoder that has ``check_exact`` is asked whether that holds on this machine.

    Raises what ``texts`` raises, after the batches of what it gave before; what the model raises for everything; ValueError for
    vectors of a wrong shape.
    """
    if window < 1:
        raise ValueError(f"window is {window}; 1 text at least")
    if budget is None:
        budget = int(getattr(encoder, "budget", BUDGET))
    limit = budget if isinstance(budget, Budget) else Budget(budget)
    if exact and hasattr(encoder, "check_exact"):
        encoder.check_exact()
    return _vectors(texts, encoder, window, limit, exact)


def _vectors(texts: Iterator[tuple[Any, str]], encoder: Encoder, window: int, limit: Budget,
             exact: bool) -> Iterator[Batch | Failure]:
    pool = ThreadPoolExecutor(1, "zstore-tokenize")
    ahead: deque[Future[_Window]] = deque()
    rounds = _Rounds(encoder, limit, exact)
    error: Exception | None = None
    ended = False
    try:
        while True:
            while not ended and len(ahead) < _AHEAD:
                pairs: list[tuple[Any, str]] = []
                try:
                    pairs.extend(islice(texts, window))
                except Exception as raised:     # what came before it is worth its vectors
                    error = raised
                ended = len(pairs) < window
                if pairs:
                    ahead.append(pool.submit(_tokenized, encoder, pairs))
            if not ahead:
                break
            started = time.perf_counter()
            ready = ahead.popleft().result()
            rounds.waited += time.perf_counter() - started
            yield from rounds.encoded(ready)
            del ready
        if error is not None:
            raise error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _tokenized(encoder: Encoder, pairs: list[tuple[Any, str]]) -> _Window:
    """Raises what the tokenizer raises if it does so for every text."""
    keys, texts = [key for key, _ in pairs], [text for _, text in pairs]
    done = _Window(keys, texts, [None] * len(texts), [])
    todo = [(0, len(texts))]
    while todo:
        low, high = todo.pop()
        try:
            found = encoder.tokenize(texts[low:high])
        except Exception as error:
            if high - low > 1:
                middle = (low + high) // 2
                todo += [(middle, high), (low, middle)]
            else:
                done.bad.append((low, error))
                if len(done.bad) == low + 1 >= _IN_A_ROW:
                    raise
            continue
        if len(found) != high - low:
            raise ValueError(f"the tokenizer gave {len(found):,} values for {high - low:,} texts")
        done.tokens[low:high] = found
    return done


class _Rounds:
    """Window after window through the model."""

    def __init__(self, encoder: Encoder, limit: Budget, exact: bool) -> None:
        self.encoder, self.limit, self.exact = encoder, limit, exact
        self.waited = 0.0
        self._unlucky = 0

    def encoded(self, window: _Window) -> Iterator[Batch | Failure]:
        for at, error in window.bad:
            yield _failure(window, at, "tokenize", error)
        bad = {at for at, _ in window.bad}
        places = np.array([at for at in range(len(window.keys)) if at not in bad], np.int64)
        lengths = np.array([len(window.tokens[at]) for at in places], np.int64)
        todo = deque(plan(lengths, self.limit.now, self.exact))
        while todo:
            batch = todo.popleft()
            found = self._tried([window.tokens[at] for at in places[batch]], padded(lengths[batch]))
            if not isinstance(found, Exception):
                yield from self._given(window, places[batch], lengths[batch], *found)
            elif self.encoder.is_out_of_memory(found):
                self.limit.failed(padded(lengths[batch]))
                if len(batch) == 1:
                    yield _failure(window, places[batch][0], "encode", MemoryError(
                        f"its {lengths[batch][0]:,} tokens do not fit into memory, even alone ({_said(found)})"))
                    continue
                rest = np.concatenate([batch, *todo])
                todo = deque(rest[part] for part in plan(lengths[rest], self.limit.now, self.exact))
            elif len(batch) > 1:
                middle = len(batch) // 2
                todo.extendleft([batch[middle:], batch[:middle]])
            else:
                self._unlucky += 1
                if self._unlucky >= _IN_A_ROW:
                    raise found
                yield _failure(window, places[batch][0], "encode", found)

    def _tried(self, tokens: Sequence[Any], size: int) -> tuple[Array, float] | Exception:
        """Vectors and seconds, or the error without its frames: they hold the batch that did not fit."""
        started = time.perf_counter()
        try:
            found = self.encoder.encode(tokens)
        except Exception as error:
            return error.with_traceback(None)
        self.limit.fitted(size)
        self._unlucky = 0
        if found.shape != (len(tokens), self.encoder.dim):
            raise ValueError(f"the model gave vectors of shape {found.shape}, not {(len(tokens), self.encoder.dim)}")
        return found, time.perf_counter() - started

    def _given(self, window: _Window, places: Int64s, lengths: Int64s, found: Array,
               seconds: float) -> Iterator[Batch | Failure]:
        fine = np.isfinite(found.astype(np.float32, copy=False)).all(axis=1) if found.dtype.kind not in "iu" else None
        if fine is not None and not fine.all():
            for at in places[~fine]:
                yield _failure(window, at, "encode", ValueError("the model gave a vector with NaN or infinity"))
            places, found = places[fine], found[fine]
        if len(places):
            stats = Stats(int(lengths.sum()), padded(lengths), seconds, self.waited, self.limit.now)
            self.waited = 0.0
            yield [window.keys[at] for at in places], found, stats


def _failure(window: _Window, at: int, stage: str, error: Exception) -> Failure:
    return Failure(window.keys[at], stage, _said(error), sample=repr(window.texts[at][:80])[1:-1])


def _said(error: Exception) -> str:
    """One line."""
    words = " ".join(str(error).split())[:300]
    return words if type(error) in (ValueError, MemoryError) and words else f"{type(error).__name__}: {words}".rstrip(": ")
