"""A source some items at a time, however fast it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from zstore.embed import embed
from zstore.embed import portions as module
from zstore.embed.hashing import HashingEncoder
from zstore.embed.portions import Portions


def portions(source: Iterator[int | None], most: int, seconds: float) -> list[list[int]]:
    taking = Portions(source, most)
    found = []
    while not taking.ended:
        found.append(taking.next(seconds))
        assert taking.full == (len(found[-1]) == most)
    if taking.error is not None:
        raise taking.error
    return found


def test_a_fast_source_gives_full_ones() -> None:
    assert portions(iter(range(10)), 4, 1e9) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert portions(iter(range(4)), 4, 1e9) == [[0, 1, 2, 3], []] and portions(iter([]), 4, 1e9) == [[]]


def test_a_slow_source_gives_what_came() -> None:
    assert portions(iter(range(3)), 4, 0) == [[0], [1], [2], []]


def test_a_none_is_a_pause() -> None:
    assert portions(iter([0, 1, None, None, 2, 3, 4]), 3, 1e9) == [[0, 1], [], [2, 3, 4], []]


def test_what_came_before_an_error_comes_first() -> None:
    def broken() -> Iterator[int]:
        yield from range(5)
        raise OSError("gone")
    found: list[int] = []
    taking = Portions(broken(), 4)
    while not taking.ended:
        found += taking.next(1e9)
    assert found == [0, 1, 2, 3, 4] and str(taking.error) == "gone"


def test_an_interrupt_is_no_end_of_the_source() -> None:
    def interrupted() -> Iterator[int]:
        yield 0
        raise KeyboardInterrupt
    taking = Portions(interrupted(), 4)
    with pytest.raises(KeyboardInterrupt):
        taking.next(1e9)
    assert not taking.ended


def test_a_source_that_gives_a_thousand_a_second_fills_the_models_windows(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(clock) / 1000))
    sizes: list[int] = []

    class Sizes(HashingEncoder):
        def tokenize(self, texts: Sequence[str]) -> list[Any]:
            sizes.append(len(texts))
            return super().tokenize(texts)
    embed(((n, f"text {n}") for n in range(3000)), url, model=Sizes(8), window=600)
    assert sizes == [600] * 5
