"""A function is known again by what it gives for some texts: its name says little."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from shared import held, rows

import zstore
from zstore.embed import embed, provenance
from zstore.embed.callables import CallableEncoder

Function = Callable[[list[str]], Any]


class Model:
    def __init__(self, value: float) -> None:
        self.value, self.calls = value, 0

    def encode(self, texts: list[str]) -> Any:
        self.calls += 1
        return np.array([[self.value, len(text)] for text in texts], np.float32)


def scaled(texts: list[str], by: float) -> Any:
    return Model(by).encode(texts)


PAIRS: list[Callable[[float], Function]] = [lambda by: lambda texts: scaled(texts, by), lambda by: Model(by).encode,
                                            lambda by: partial(scaled, by=by)]
DOCS = [(n, f"text {n}") for n in range(20)]


@pytest.mark.parametrize("made", PAIRS)
def test_another_function_of_the_same_name_is_refused(made: Callable[[float], Function], url: str) -> None:
    embed(DOCS, url, model=made(1.0))
    with pytest.raises(ValueError, match=r"of the model (.*), and this run's would be of the model \1, which gives the same "
                                         "text another vector"):
        embed([*DOCS, ("b", "new")], url, model=made(7.0))
    assert rows(url) == 20
    report = embed([*DOCS, (20, "new")], url, model=made(1.0 + 1e-5))       # another machine rounds otherwise
    assert (report.skipped, report.embedded) == (20, 1)


def test_an_epoch_of_another_function_is_not_copied_from(url: str) -> None:
    """Though all but what they give is the same."""
    made = PAIRS[0]
    embed(DOCS, url, model=made(1.0))
    assert embed(DOCS, url, model=made(7.0), epoch=1).embedded == 20
    assert embed(DOCS, url, model=made(7.0 + 1e-5), epoch=2).copied == 20      # the same as in epoch 1, but for rounding
    with zstore.Reader(url) as reader:
        assert [reader.epoch(n).vectors[:, 0].tolist() for n in range(3)] == [[1.0] * 20, [7.0] * 20, [7.0] * 20]


def test_a_name_of_the_users_own(url: str) -> None:
    embed(DOCS, url, model=Model(1).encode, name="mine-1")
    with pytest.raises(ValueError, match="of the model mine-1, and this run's would be of the model mine-2: write"):
        embed(DOCS, url, model=Model(1).encode, name="mine-2")
    with pytest.raises(ValueError, match="the hashing encoder has no name"):
        embed(DOCS, url, model="hash:8", name="mine")
    assert len(held(url)) == 20


def test_it_is_asked_once() -> None:
    model = Model(1)
    encoder = CallableEncoder(model.encode)
    assert encoder.provenance() == encoder.provenance() and model.calls == 1 and encoder.dim == 2
    known = CallableEncoder(model.encode, dim=2, dtype="float32")
    assert model.calls == 1
    assert known.provenance() == encoder.provenance() and model.calls == 2


def test_what_is_compared_is_small_and_finite() -> None:
    one = CallableEncoder(lambda texts: np.linspace(-1, 1, 4096 * len(texts)).reshape(len(texts), 4096)).provenance()
    assert [len(row) for row in one["probe"]] == [9, 9]
    nan = CallableEncoder(lambda texts: np.full((len(texts), 3), np.nan)).provenance()
    assert nan["probe"] == [] and provenance.same(nan, dict(nan)) and not provenance.same(nan, one)
    zero = CallableEncoder(lambda texts: np.zeros((len(texts), 3))).provenance()
    assert provenance.same(zero, dict(zero))


@pytest.mark.parametrize("given", [[1.0], [[1.0]], "no", [["a"], ["b"]], np.ones((2, 3, 4))])
def test_what_gives_no_vectors(given: Any) -> None:
    with pytest.raises(ValueError, match=r"for 2 texts, not \(2, dim\) of numbers"):
        CallableEncoder(lambda texts: given)
