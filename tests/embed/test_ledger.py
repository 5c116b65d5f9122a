"""The ledger of failures: one entry per item, durable, whole after a crash."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from zstore.embed.ledger import Ledger
from zstore.embed.types import Failure

BLANK = Failure("doc-3", "check", "the text is blank", "docs.jsonl line 3", "   ")
NO_JSON = Failure(None, "source", "the line is not JSON", "docs.jsonl line 9", "{")


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "local":
        yield str(tmp_path / "docs.zarr")
        return
    import fsspec
    yield "memory://ledgers/docs.zarr"
    fs = fsspec.filesystem("memory")
    if fs.exists("/ledgers"):
        fs.rm("/ledgers", recursive=True)


def lines(url: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(url + ".failures.jsonl").read_text().splitlines()]


def test_entries_stay_until_they_are_cleared(place: str) -> None:
    ledger = Ledger(place + "/")
    assert len(ledger) == 0 and ledger.all() == [] and ledger.run is None
    ledger.add([])
    ledger.add([BLANK, NO_JSON])
    ledger.add([Failure(7, "encode", "too big")])
    assert Ledger(place).all() == ledger.all() == [BLANK, NO_JSON, Failure(7, "encode", "too big")]
    assert ledger.clear(["doc-3", "never failed"]) == 1 and ledger.clear(["7"]) == 1
    assert Ledger(place).all() == [NO_JSON] and Ledger(place).clear(places=[NO_JSON.place, "elsewhere"]) == 1
    assert Ledger(place).all() == []


def test_an_item_has_one_entry_and_the_last_one_counts(place: str) -> None:
    again = Failure("doc-3", "encode", "out of memory")
    for failure in (BLANK, NO_JSON, again):
        Ledger(place).add([failure])
    Ledger(place).add([NO_JSON, NO_JSON])
    assert Ledger(place).all() == [again, NO_JSON]


def test_what_would_run_it_again_is_remembered(place: str) -> None:
    first = {"source": "docs.jsonl", "model": "hash:384", "keep": ["title"]}
    Ledger(place).remember(first)
    assert Ledger(place).run is None            # no failure, no file
    ledger = Ledger(place)
    ledger.remember(first)
    ledger.add([BLANK, NO_JSON])
    assert Ledger(place).run == first
    Ledger(place).remember({**first, "model": "other"})
    Ledger(place).clear(["doc-3"])
    assert Ledger(place).run == {**first, "model": "other"} and len(Ledger(place)) == 1


def test_the_file_is_a_line_per_item_and_goes_with_the_last(tmp_path: Path) -> None:
    url = str(tmp_path / "docs.zarr")
    ledger = Ledger(url)
    ledger.remember({"source": "docs.jsonl"})
    ledger.add([BLANK, NO_JSON])
    assert lines(url) == [
        {"run": {"source": "docs.jsonl"}},
        {"id": "doc-3", "stage": "check", "reason": "the text is blank", "place": "docs.jsonl line 3", "sample": "   "},
        {"id": None, "stage": "source", "reason": "the line is not JSON", "place": "docs.jsonl line 9", "sample": "{"}]
    assert os.listdir(tmp_path) == ["docs.zarr.failures.jsonl"]
    ledger.clear(["doc-3"], [NO_JSON.place])
    assert os.listdir(tmp_path) == []


def test_a_line_that_a_crash_cut_short_costs_only_itself(tmp_path: Path) -> None:
    url, path = str(tmp_path / "docs.zarr"), tmp_path / "docs.zarr.failures.jsonl"
    Ledger(url).add([BLANK, NO_JSON])
    path.write_bytes(path.read_bytes()[:-20])
    assert Ledger(url).all() == [BLANK]
    Ledger(url).add([Failure("later", "check", "why")])
    assert [failure.id for failure in Ledger(url).all()] == ["doc-3", "later"]


def test_clearing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path / "docs.zarr")
    Ledger(url).add([BLANK, NO_JSON])

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zstore.embed.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        Ledger(url).clear(["doc-3"])
    assert Ledger(url).all() == [BLANK, NO_JSON] and os.listdir(tmp_path) == ["docs.zarr.failures.jsonl"]


def test_ids_that_have_no_entry_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(str(tmp_path / "docs.zarr"))
    ledger.add([BLANK])
    monkeypatch.setattr(type(ledger), "_rewrite", lambda _: pytest.fail("rewritten"))
    assert ledger.clear(range(100_000)) == 0


@pytest.mark.parametrize("id", ["caf\ud800", ["a", "list"], 1.5, b"bytes", "line\nend"])
def test_an_entry_can_be_of_any_id_and_place(id: Any, place: str) -> None:
    Ledger(place).add([Failure(id, "check", "why", "file-\udcff.txt", "a\nb")])
    (entry,) = Ledger(place).all()
    assert entry.reason == "why" and entry.place == "file-\udcff.txt" and entry.sample == "a b"
