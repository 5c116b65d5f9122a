"""Passages together are their text, know where they stand in it, and depend on it alone."""

from __future__ import annotations

from typing import Any

import pytest

from zstore.embed.passages import split
from zstore.embed.types import Item


def test_passages_know_their_parent_and_offset() -> None:
    text = "the quick brown fox jumps over the lazy dog"
    one, two, three = split(Item("doc", text, {"title": "Fox"}, "line 1"), 20, 5)
    assert [p.id for p in (one, two, three)] == ["doc#0", "doc#1", "doc#2"]
    assert one == Item("doc#0", "the quick brown fox ", {"title": "Fox", "parent": "doc", "offset": 0}, "line 1")
    assert two.text == "fox jumps over the " and two.fields["offset"] == 16 and three.text == "the lazy dog"


def test_a_short_text_is_one_passage() -> None:
    assert list(split(Item(7, "short"), 100, 10)) == [Item("7#0", "short", {"parent": 7, "offset": 0})]


@pytest.mark.parametrize("text", [None, 5, "", " \n", b"bytes"])
def test_what_is_no_text_goes_on_to_the_check(text: Any) -> None:
    item = Item("doc", text)
    assert list(split(item, 10)) == [item]


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (10, 6), (10, -1), (-5, 0)])
def test_sizes_that_make_no_sense(size: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap by half of that at most"):
        split(Item("doc", "text"), size, overlap)


def test_a_word_longer_than_a_passage_is_cut() -> None:
    assert [p.text for p in split(Item("d", "x" * 25), 10)] == ["x" * 10, "x" * 10, "x" * 5]
    assert [p.fields["offset"] for p in split(Item("d", "x" * 25), 10, 4)] == [0, 6, 12, 18]


def test_any_text_in_any_size() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies

    @hypothesis.settings(deadline=None, max_examples=300, database=None, derandomize=True)
    @hypothesis.given(st.text(alphabet="ab \n例", min_size=1, max_size=200), st.integers(1, 40), st.data())
    def check(text: str, size: int, data: Any) -> None:
        overlap = data.draw(st.integers(0, size // 2))
        hypothesis.assume(text.strip())
        passages = list(split(Item("d", text), size, overlap))
        covered, last = set(), -1
        for number, passage in enumerate(passages):
            offset = passage.fields["offset"]
            assert passage.id == f"d#{number}" and 0 < len(passage.text) <= size and passage.text.strip()
            assert text[offset:offset + len(passage.text)] == passage.text and offset > last
            covered.update(range(offset, offset + len(passage.text)))
            last = offset
        assert all(char.isspace() for at, char in enumerate(text) if at not in covered)
        assert passages == list(split(Item("d", text), size, overlap))

    check()
