"""Texts to vectors, at the speed of the model: a window is tokenized while the one before it is encoded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from zstore._typing import Array, Int64s
from zstore.embed.budget import Budget
from zstore.embed.plan import padded, plan
from zstore.embed.portions import Portions
from zstore.embed.types import Encoder, Failure

WINDOW, BUDGET = 4096, 8192     # texts; padded tokens, for an encoder that does not say its own
_AHEAD = 2              # windows that are read, and tokenized, before the model asks
_WINDOW_S = 2.0         # a window takes what the source gave by then
_IN_A_ROW = 16          # items that fail one after another: is it the model, or the items?


@dataclass(frozen=True, slots=True)
class Stats:
    """Of one batch: ``tokens`` that the texts have, ``padded`` that the model was given, ``seconds`` in the model, ``waited``
    for the tokenizer before it, ``budget`` that holds now, ``known``: texts, and their tokens, that came from the tokenizer
    since the last batch."""

    tokens: int
    padded: int
    seconds: float
    waited: float
    budget: int
    known: tuple[int, int] = (0, 0)


Batch: TypeAlias = tuple[list[Any], Array, Stats]


@dataclass(slots=True)
class _Window:
    """Texts by position, their tokens, and those that have none."""

    keys: list[Any]
    texts: list[str]
    tokens: list[Any]
    bad: list[tuple[int, Exception]]


def vectors(texts: Iterator[tuple[Any, str] | None], encoder: Encoder, *, window: int = WINDOW,
            budget: int | Budget | None = None, exact: bool = False) -> Iterator[Batch | Failure]:
    """Of ``(key, text)`` pairs: batches ``(keys, (n, dim) vectors, stats)`` in an order of their own, and a ``Failure`` with
    the key as its id for each text that has no vector.

    At most three windows of texts are held at a time, and of a slow source one, with what came within two seconds; a None
    among ``texts`` says that more may take a while. ``texts`` is read by the thread that reads the batches. A batch has at most
    ``budget`` padded tokens (None: the encoder's ``budget``, else 8,192); where memory runs out the budget is halved,
    remembered (pass a ``Budget`` to keep it over calls) and grows back slowly. A batch that raises is halved until the item
    that raises stands alone. ``exact``: a text's vector hangs on the text alone. An encoder that has ``check_exact`` is asked
    whether it does where all texts of a batch have one length in tokens, so that nothing is padded; any other is given one
    text at a time.

    Raises what ``texts`` raises, after the batches of what it gave before; what the model raises where it also does for a text
    that it could do before, or for the longest and the shortest; ValueError for vectors of a wrong shape.
    """
    if window < 1:
        raise ValueError(f"window is {window}; 1 text at least")
    if budget is None:
        budget = int(getattr(encoder, "budget", BUDGET))
    limit = budget if isinstance(budget, Budget) else Budget(budget)
    if exact and hasattr(encoder, "check_exact"):
        encoder.check_exact()
    return _vectors(texts, encoder, window, limit, exact)


def _vectors(texts: Iterator[tuple[Any, str] | None], encoder: Encoder, window: int, limit: Budget,
             exact: bool) -> Iterator[Batch | Failure]:
    pool = ThreadPoolExecutor(1, "zstore-tokenize")
    ahead: deque[Future[_Window]] = deque()
    source = Portions(texts, window)
    reading, rounds = _Reading(encoder), _Rounds(encoder, limit, exact)
    try:
        while True:
            # What a slow source gave is encoded before more is asked for.
            while not source.ended and len(ahead) < _AHEAD and (source.full or not ahead):
                if pairs := source.next(_WINDOW_S):
                    ahead.append(pool.submit(reading.tokenized, pairs))
            if not ahead:
                break
            started = time.perf_counter()
            ready = ahead.popleft().result()
            rounds.waited += time.perf_counter() - started
            rounds.meet(ready)
            yield from rounds.encoded(ready)
            del ready
        if source.error is not None:
            raise source.error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Reading:
    """Window after window through the tokenizer."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._unlucky = 0                   # texts in a row that it could not do
        self._fine: str | None = None       # one that it could

    def tokenized(self, pairs: list[tuple[Any, str]]) -> _Window:
        """Raises what the tokenizer raises where it is at fault, not the texts."""
        keys, texts = [key for key, _ in pairs], [text for _, text in pairs]
        done = _Window(keys, texts, [None] * len(texts), [])
        todo = [(0, len(texts))]
        while todo:
            low, high = todo.pop()
            try:
                found = self._encoder.tokenize(texts[low:high])
            except Exception as error:
                if high - low > 1:
                    middle = (low + high) // 2
                    todo += [(middle, high), (low, middle)]
                else:
                    self._unlucky += 1
                    done.bad.append((low, error))
                continue
            if len(found) != high - low:
                raise ValueError(f"the tokenizer gave {len(found):,} values for {high - low:,} texts")
            done.tokens[low:high] = found
            self._unlucky, self._fine = 0, texts[low]
        if len(done.bad) == len(texts) and self._unlucky >= _IN_A_ROW and not self._works():
            raise done.bad[0][1]
        return done

    def _works(self) -> bool:
        if self._fine is None:
            return False
        try:
            self._encoder.tokenize([self._fine])
        except Exception:
            return False
        self._unlucky = 0
        return True


class _Rounds:
    """Window after window through the model."""

    def __init__(self, encoder: Encoder, limit: Budget, exact: bool) -> None:
        self.encoder, self.limit, self.exact = encoder, limit, exact
        self.waited = 0.0
        self.known = 0, 0
        self._alone = exact and not hasattr(encoder, "check_exact")
        self._unlucky = 0               # texts in a row that the model could not do
        self._fine: Any = None          # the tokens of one that it could

    def meet(self, window: _Window) -> None:
        """Count what the tokenizer made of a window, whose longest texts are encoded first."""
        sizes = [len(tokens) for tokens in window.tokens if tokens is not None]
        self.known = self.known[0] + len(sizes), self.known[1] + sum(sizes)

    def encoded(self, window: _Window) -> Iterator[Batch | Failure]:
        for at, error in window.bad:
            yield _failure(window, at, "tokenize", error)
        bad = {at for at, _ in window.bad}
        places = np.array([at for at in range(len(window.keys)) if at not in bad], np.int64)
        lengths = np.array([len(window.tokens[at]) for at in places], np.int64)
        todo = deque(self._planned(lengths))
        while todo:
            batch = todo.popleft()
            found = self._tried([window.tokens[at] for at in places[batch]], padded(lengths[batch]))
            if not isinstance(found, Exception):
                yield from self._given(window, places[batch], lengths[batch], *found)
                continue
            full = self.encoder.is_out_of_memory(found)
            if full:
                self.limit.failed(padded(lengths[batch]))
            if len(batch) == 1:
                other = window.tokens[places[todo[-1][-1]]] if todo else None
                yield self._unable(window, places[batch][0], lengths[batch][0], found, other, full)
            elif full:
                rest = np.concatenate([batch, *todo])
                todo = deque(rest[part] for part in self._planned(lengths[rest]))
            else:
                middle = len(batch) // 2
                todo.extendleft([batch[middle:], batch[:middle]])

    def _planned(self, lengths: Int64s) -> list[Int64s]:
        return plan(lengths, 1 if self._alone else self.limit.now, self.exact)

    def _unable(self, window: _Window, place: int, length: int, error: Exception, other: Any, full: bool) -> Failure:
        """The text at ``place`` has no vector. Raises the error where the model fails at everything: at many in a row, and then
        at one that it did before or, for want of that, at the ``other``, which is the shortest that is left."""
        self._unlucky += 1
        if self._unlucky >= _IN_A_ROW:
            tokens = other if self._fine is None else self._fine
            if tokens is None or isinstance(self._tried([tokens], len(tokens)), Exception):
                raise error
        if full:
            error = MemoryError(f"its {length:,} tokens do not fit into memory, even alone ({_said(error)})")
        return _failure(window, place, "encode", error)

    def _tried(self, tokens: Sequence[Any], size: int) -> tuple[Array, float] | Exception:
        """Vectors and seconds, or the error without its frames: they hold the batch that did not fit."""
        started = time.perf_counter()
        try:
            found = self.encoder.encode(tokens)
        except Exception as error:
            return error.with_traceback(None)
        self.limit.fitted(size)
        self._unlucky, self._fine = 0, tokens[-1]
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
            stats = Stats(int(lengths.sum()), padded(lengths), seconds, self.waited, self.limit.now, self.known)
            self.waited, self.known = 0.0, (0, 0)
            yield [window.keys[at] for at in places], found, stats


def _failure(window: _Window, at: int, stage: str, error: Exception) -> Failure:
    return Failure(window.keys[at], stage, _said(error), sample=repr(window.texts[at][:80])[1:-1])


def _said(error: Exception) -> str:
    """One line."""
    words = " ".join(str(error).split())[:300]
    return words if type(error) in (ValueError, MemoryError) and words else f"{type(error).__name__}: {words}".rstrip(": ")
