"""The encoder of nothing but numpy, and any function as an encoder."""

from __future__ import annotations

import random

import ml_dtypes
import numpy as np
import pytest

from zstore.embed.callables import CallableEncoder, out_of_memory
from zstore.embed.hashing import HashingEncoder

TEXTS = ["the cat sat on the mat", "a cat sat on a mat", "stocks fell sharply on Monday", "x", "", " \n",
         "THE CAT sat on the mat", "日本"]


def encoded(encoder: HashingEncoder, texts: list[str]) -> np.ndarray:
    return encoder.encode(encoder.tokenize(texts))


@pytest.mark.parametrize("dim", [1, 2, 64, 384, 1000])
def test_vectors_have_length_1_and_batches_do_not_matter(dim: int) -> None:
    encoder = HashingEncoder(dim)
    whole = encoded(encoder, TEXTS)
    assert whole.shape == (len(TEXTS), dim) and whole.dtype == np.float32
    assert np.allclose(np.linalg.norm(whole, axis=1), 1)
    order = random.Random(0).sample(range(len(TEXTS)), len(TEXTS))
    for size in (1, 3, len(TEXTS)):
        for low in range(0, len(order), size):
            some = order[low:low + size]
            assert encoded(encoder, [TEXTS[at] for at in some]).tobytes() == whole[some].tobytes()


def test_texts_that_share_words_are_near() -> None:
    found = encoded(HashingEncoder(4096), TEXTS)
    assert found[0] @ found[1] > 0.4 > 0.2 > abs(found[0] @ found[2])
    assert found[0] @ found[6] == pytest.approx(1)      # letters' case is no difference


def test_the_same_bits_on_every_machine() -> None:
    """A store that was begun on one machine goes on on another."""
    found = encoded(HashingEncoder(8), ["hello world"])
    assert found.astype(np.float64).round(6).tolist() == KNOWN


KNOWN = [[0.235702, 0.471405, 0.0, 0.0, 0.0, 0.0, -0.707107, 0.471405]]


def test_no_texts_and_bad_dims() -> None:
    assert encoded(HashingEncoder(5), []).shape == (0, 5)
    for dim in (0, -1, 70_000):
        with pytest.raises(ValueError, match="dimensions"):
            HashingEncoder(dim)


def test_long_texts_are_cut() -> None:
    tokens = HashingEncoder().tokenize(["word " * 10_000])
    assert len(tokens[0]) == HashingEncoder.max_tokens


@pytest.mark.parametrize(("function", "dtype"), [
    (lambda texts: np.ones((len(texts), 3), np.float32), "float32"),
    (lambda texts: [[1.0, 2.0, 3.0] for _ in texts], "float32"),
    (lambda texts: np.ones((len(texts), 3), np.float16), "float16"),
    (lambda texts: np.ones((len(texts), 3), ml_dtypes.bfloat16), "bfloat16"),
    (lambda texts: np.ones((len(texts), 3), int), "float32"),
])
def test_any_function(function: object, dtype: str) -> None:
    encoder = CallableEncoder(function)     # type: ignore[arg-type]
    found = encoder.encode(encoder.tokenize(["a", "b" * 400]))
    assert (encoder.dim, encoder.dtype) == (3, dtype) and found.shape == (2, 3) and found.dtype.name == dtype
    assert [len(each) for each in encoder.tokenize(["", "b" * 400])] == [1, 101]
    assert "test_any_function" in encoder.provenance()["name"] or "lambda" in encoder.provenance()["name"]


def test_a_function_that_gives_no_vectors() -> None:
    for wrong in (lambda texts: [1.0], lambda texts: np.ones((3, 3)), lambda texts: [["a"]]):
        with pytest.raises(ValueError, match="not \\(2, dim\\) of numbers"):
            CallableEncoder(wrong)


def test_a_function_is_asked_once() -> None:
    asked: list[int] = []

    def once(texts: list[str]) -> np.ndarray:
        asked.append(len(texts))
        return np.ones((len(texts), 7), np.float16)
    encoder = CallableEncoder(once, dim=7, dtype="float16", name="mine")
    assert not asked
    made = encoder.provenance()
    assert encoder.provenance() == made and asked == [2]
    assert {name: made[name] for name in ("kind", "name", "dim", "dtype")} == {
        "kind": "callable", "name": "mine", "dim": 7, "dtype": "float16"}


@pytest.mark.parametrize(("error", "yes"), [
    (MemoryError(), True), (RuntimeError("CUDA out of memory. Tried to allocate"), True),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
    (RuntimeError("shape '[3]' is invalid"), False), (ValueError("out of memory of words"), False),
    (type("OutOfMemoryError", (RuntimeError,), {})(), True),
])
def test_what_is_out_of_memory(error: Exception, yes: bool) -> None:
    assert out_of_memory(error) is yes
