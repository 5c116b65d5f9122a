"""Texts that no model can make sense of."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from zstore.embed.check import checked, wrong_with
from zstore.embed.types import Failure, Item

BAD: dict[str, tuple[Any, str]] = {
    "empty": ("", "the text is empty"), "blank": (" \t\r\n\u00a0\u3000", "blank"),
    "NUL alone": ("\0\0", "no visible character"),
    "NUL inside": ("a\0b", "NUL character"), "invisible": ("\u200b\ufeff\u00ad", "no visible character"),
    "control": ("\x1b\x07", "no visible character"), "surrogate": ("caf\ud800", "lone surrogate"), "None": (None, "only null"),
    "NaN": (math.nan, "only NaN"), "numpy's NaN": (np.float32("nan"), "of type float32"), "a number": (3, "of type int"),
    "a float": (3.5, "of type float"), "bytes": (b"text", "decode it first"), "a list": (["text"], "of type list"),
    "True": (True, "of type bool"), "too long": ("x" * 101, "101 characters, and 100 are the most"),
}
GOOD = ["a", ".", " a ", "例", "😀", "a\u200db", "\u0301", "x" * 100, np.str_("numpy's"), "a\x1bb"]


@pytest.mark.parametrize("name", BAD)
def test_bad_texts(name: str) -> None:
    text, reason = BAD[name]
    one, bad, two = checked([Item("a", "good"), Item("bad", text, place="docs.jsonl line 2"), Item("b", "good")], max_chars=100)
    assert isinstance(one, Item) and isinstance(two, Item)
    assert isinstance(bad, Failure) and (bad.id, bad.stage, bad.place) == ("bad", "check", "docs.jsonl line 2")
    assert reason in bad.reason and bad.sample.isprintable() and len(bad.sample) <= 80
    bad.sample.encode()


@pytest.mark.parametrize("text", GOOD)
def test_good_texts_are_given_as_they_are(text: str) -> None:
    item = Item("a", text)
    (given,) = checked([item], max_chars=100)
    assert given is item


def test_what_happens_to_bad_ones() -> None:
    items = [Item("a", "good"), Item(7, "", place="docs.csv line 3"), Failure(None, "source", "no JSON", "docs.jsonl line 9")]
    assert [type(given) for given in checked(items)] == [Item, Failure, Failure]
    assert list(checked(items, on_bad="skip")) == items[:1]
    with pytest.raises(ValueError, match=r"^docs.csv line 3 \(id 7\): the text is empty$"):
        list(checked(items, on_bad="fail"))
    with pytest.raises(ValueError, match=r"^docs.jsonl line 9: no JSON$"):
        list(checked(items[2:], on_bad="fail"))
    with pytest.raises(ValueError, match="on_bad is one of quarantine, skip, fail"):
        checked(items, on_bad="ignore")
    with pytest.raises(ValueError, match="max_chars"):
        checked(items, max_chars=0)


@pytest.mark.parametrize("bad", [None, 1.5, b"a", ["a"], True, "\ud800", np.int64(3)])
def test_a_failure_can_be_written_as_json_whatever_the_id(bad: Any) -> None:
    (failure,) = checked([Item(bad, "")])
    assert isinstance(failure, Failure)
    json.dumps(failure.id).encode()
    assert failure.id == (3 if bad == 3 else "\ufffd" if bad == "\ud800" else None)


def test_a_long_text_is_looked_at_once() -> None:
    assert wrong_with(" " * 10_000_000 + "a") is None
    assert wrong_with(" " * 10_000_000) == "the text is blank"
