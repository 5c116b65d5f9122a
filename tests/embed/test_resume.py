"""What is there already: the table of hashes, the kinds of ids and fields, and what an item still needs."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from zstore.embed import hashes
from zstore.embed.columns import Columns, Misfit
from zstore.embed.hashes import Table, hash_id, hash_text
from zstore.embed.resume import Resume
from zstore.embed.types import Failure, Item


def test_a_table_is_a_dict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "BUFFERED", 16)
    monkeypatch.setattr(hashes, "FILED", 64)
    monkeypatch.setattr(hashes, "_PIECE", 48)
    rng = random.Random(0)
    keys = np.array([rng.getrandbits(64) for _ in range(100)], np.uint64)
    table, plain = Table(keys, np.arange(100)), dict(zip(keys.tolist(), range(100), strict=True))
    for value in range(2000):
        key = rng.choice([*plain]) if rng.random() < 0.3 else rng.getrandbits(64)
        table.put(key, value)
        plain[key] = value
    asked = [*plain, *(rng.getrandbits(64) for _ in range(100)), 0, 2**64 - 1]
    assert table.get(asked) == [plain.get(key) for key in asked]
    assert Table().get([1, 2]) == [None, None] and table.get([]) == []


def test_hashes_tell_texts_and_models_apart() -> None:
    assert hash_text("a", b"one") != hash_text("a", b"two") and hash_text("a", b"one") != hash_text("b", b"one")
    assert 0 <= hash_text("a", b"k") < 2**64 and hash_id("a") != hash_id("b")


@pytest.mark.parametrize("bad", ["", "x" * 1025, "a\0b", "\ud800", None, 1.5, True, b"x"])
def test_ids_that_no_store_holds(bad: Any) -> None:
    with pytest.raises(Misfit):
        Columns([], strings=True).id_of(Item(bad, "text"))


@pytest.mark.parametrize("bad", ["017", "+17", "-0", "x", 2**63, str(2**63), -2**63 - 1, True, None])
def test_ids_that_no_store_of_integers_holds(bad: Any) -> None:
    with pytest.raises(Misfit):
        Columns([], strings=False).id_of(Item(bad, "text"))


def test_a_field_of_every_store_can_not_be_kept() -> None:
    with pytest.raises(ValueError, match="text_hash"):
        Columns(["title", "text_hash"])


def test_each_item_needs_what_it_needs() -> None:
    resume = Resume(None, 0, b"key", Columns([]))
    bad = Failure(None, "source", "bad")
    found = resume.sort([Item("a", "one"), Item("b", "one"), Item("a", "one"), Item("a", "two"), bad])
    assert [job.id for job, _ in found.texts] == ["a"] and [job.id for job, _ in found.copies] == ["b"]
    assert found.skipped == 1 and len(found.failures) == 2 and resume.nameless == 1
    (job, _), (copy, _) = found.texts[0], found.copies[0]
    assert resume.sources([copy]) == [None]
    resume.landed([job])
    assert resume.sources([copy]) == [0] and resume.rows == 1
    later = resume.sort([Item("c", "one"), Item("d", "three")])
    assert [job.id for job, _ in later.copies] == ["c"]
    resume.failed(later.texts[0][0], "too hard")
    again = resume.sort([Item("e", "three")]).texts     # another try is the model's to make
    assert [job.id for job, _ in again] == ["e"] and resume.sources([again[0][0]]) == ["too hard"]
    assert list(resume.absent()) == []
