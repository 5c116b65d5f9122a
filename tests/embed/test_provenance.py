"""Vectors of two kinds never share an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zstore.embed import embed, provenance
from zstore.embed.hashing import HashingEncoder

MADE = {"kind": "hash", "dim": 8, "prompt": "", "named": "hash:8", "versions": {"torch": "2"}}


def attrs(**changes: Any) -> dict[str, Any]:
    return {"embedding": {**MADE, **changes, "keep": ["title"]}}


def test_a_new_store_and_the_same_model() -> None:
    assert provenance.check("s", {}, 0, 0, MADE) == {}
    assert provenance.check("s", attrs(), 5, 0, MADE) == attrs()
    assert provenance.check("s", attrs(), 5, 3, MADE) == {}     # another epoch is free


@pytest.mark.parametrize("changes", [{"named": "./folder"}, {"versions": {"torch": "3"}}, {"keep": []}])
def test_names_and_versions_are_no_reason_to_refuse(changes: dict[str, Any]) -> None:
    held = attrs(**changes)
    assert provenance.check("s", held, 5, 0, MADE) == held      # as the store has it
    assert provenance.key({**MADE, **changes}) == provenance.key(MADE)


@pytest.mark.parametrize("changes", [{"dim": 9}, {"prompt": "query: "}, {"weights": "abc"}])
def test_two_kinds_are_refused_and_both_named(changes: dict[str, Any]) -> None:
    (name, value), = changes.items()
    with pytest.raises(ValueError, match=r"s holds vectors of .*hash:8.* and this run's would be of .*hash:8") as caught:
        provenance.check("s", attrs(**changes), 5, 0, MADE)
    assert f"{name} {value}" in str(caught.value).replace('"', "") and "\n" not in str(caught.value)
    assert provenance.key({**MADE, **changes}) != provenance.key(MADE)


@pytest.mark.parametrize("first", [False, True])
def test_exact_vectors_and_others_are_refused_together(first: bool, url: str) -> None:
    embed([("a", "one text")], url, model="hash:8", exact=first)
    assert embed([("b", "another")], url, model="hash:8", exact=first).embedded == 1
    one, other = ("true", "false") if first else ("false", "true")
    with pytest.raises(ValueError, match=f"holds vectors of the model hash:8, exact {one}, and .* hash:8, exact {other}: "):
        embed([("c", "a third")], url, model="hash:8", exact=not first)


def test_two_models_are_named_and_not_compared_setting_by_setting() -> None:
    real = {"kind": "sentence-transformers", "weights": "abc", "config": "d", "dim": 384, "pooling": [{}], "named": "MiniLM"}
    with pytest.raises(ValueError, match=r"the model hash:8, kind .* the model MiniLM, kind .*") as caught:
        provenance.check("s", attrs(), 5, 0, real)
    assert len(str(caught.value)) < 220 and "null" not in str(caught.value) and "pooling" not in str(caught.value)
    with pytest.raises(ValueError, match=r"of the model MiniLM, and this run's would be of the model other: write"):
        provenance.check("s", {"embedding": real}, 5, 0, {**real, "weights": "xyz", "config": "e", "named": "other"})
    with pytest.raises(ValueError, match=r'the model MiniLM, weights "abc", and .* the model MiniLM, weights "xyz": write'):
        provenance.check("s", {"embedding": real}, 5, 0, {**real, "weights": "xyz", "config": "e"})
    with pytest.raises(ValueError, match=r'the model MiniLM, config "d", and .* the model MiniLM, config "e": write'):
        provenance.check("s", {"embedding": real}, 5, 0, {**real, "config": "e"})


def test_a_folder_is_named_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pm").mkdir()
    assert provenance.name_of("./pm") == provenance.name_of(Path("pm")) == str(tmp_path / "pm")
    assert provenance.name_of("hash:8") == "hash:8" and provenance.name_of(len) == "len"


def test_rows_of_another_origin_are_refused() -> None:
    with pytest.raises(ValueError, match="5 rows that were not embedded"):
        provenance.check("s", {"note": 1}, 5, 0, MADE)
    assert provenance.check("s", {"note": 1}, 0, 0, MADE) == {}


@pytest.mark.parametrize("epoch", [-1, 1.5, "0"])
def test_an_epoch_is_a_number(epoch: Any) -> None:
    with pytest.raises(ValueError, match="epoch"):
        provenance.attribute(epoch)


def test_an_encoder_says_it_as_json() -> None:
    made = provenance.of(HashingEncoder(8), "hash:8")
    assert made["dim"] == 8 and made["named"] == "hash:8"
    assert provenance.held({"embedding@2": made}, 2) == made and provenance.held({}, 2) is None
