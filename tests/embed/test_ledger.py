"""The ledger of failures: one entry per item, durable, whole after a crash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shared import rows

import zstore
from zstore.embed import embed
from zstore.embed.hashing import HashingEncoder
from zstore.embed.ledger import Ledger
from zstore.embed.types import Failure
from zstore.errors import Conflict

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
        {"id": "doc-3", "stage": "check", "reason": "the text is blank", "place": "docs.jsonl line 3", "sample": "   ",
         "epoch": 0},
        {"id": None, "stage": "source", "reason": "the line is not JSON", "place": "docs.jsonl line 9", "sample": "{",
         "epoch": 0}]
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


def docs(folder: Path, name: str, *rows: Any) -> str:
    """A source of (id, text), or of lines as they stand."""
    (folder / name).write_text("".join(
        (row if isinstance(row, str) else json.dumps({"id": row[0], "text": row[1]})) + "\n" for row in rows))
    return str(folder / name)


def open_ids(url: str) -> list[Any]:
    return [failure.id if failure.id is not None else failure.place.rpartition("/")[2] for failure in Ledger(url).all()]


KILLED = """
    import os, signal, sys
    from zstore.embed import embed
    from zstore.writer import Writer

    Writer.close = lambda writer: os.kill(os.getpid(), signal.SIGKILL)      # a worker's too
    if __name__ == "__main__":
        embed(sys.argv[1], sys.argv[2], model="hash:8", workers=int(sys.argv[3]))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_before_the_row_is_durable_the_entry_is_there(workers: int, tmp_path: Path, children: Any) -> None:
    url, source = str(tmp_path / "docs.zarr"), docs(tmp_path, "a.jsonl", (1, "one"), (2, ""))
    embed(source, url, model="hash:8")
    docs(tmp_path, "a.jsonl", (1, "one"), (2, "two"))
    child = children.start(KILLED, source, url, workers)
    assert child.communicate(timeout=60) and child.returncode
    assert rows(url) == 1 and open_ids(url) == [2]
    embed(source, url, model="hash:8", workers=workers)
    assert rows(url) == 2 and open_ids(url) == []


def test_what_was_mended_is_open_until_the_writer_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, source = str(tmp_path / "docs.zarr"), docs(tmp_path, "a.jsonl", (1, "one"), (2, ""))
    embed(source, url, model="hash:8")
    docs(tmp_path, "a.jsonl", (1, "one"), (2, "two"))
    close, seen = zstore.Writer.close, []

    def closing(writer: Any) -> None:
        seen.append(open_ids(url))
        close(writer)

    monkeypatch.setattr(zstore.Writer, "close", closing)
    embed(source, url, model="hash:8", commit_s=0.001)
    assert seen[0] == [2] and open_ids(url) == []


def test_a_run_clears_the_places_of_its_own_source_only(tmp_path: Path) -> None:
    url = str(tmp_path / "docs.zarr")
    one, other = docs(tmp_path, "a.jsonl", (1, "one"), "{ broken"), docs(tmp_path, "b.jsonl", (2, "two"), "[ broken")
    for source in (one, other, other, one):
        embed(source, url, model="hash:8")
        assert set(open_ids(url)) >= {"a.jsonl line 2"}
    assert open_ids(url) == ["a.jsonl line 2", "b.jsonl line 2"]
    docs(tmp_path, "b.jsonl", (2, "two"), (3, "three"))
    embed([other], url, model="hash:8")
    assert open_ids(url) == ["a.jsonl line 2"]
    docs(tmp_path, "a.jsonl", (1, "one"))
    embed(one, url, model="hash:8")
    assert open_ids(url) == []


def test_an_epoch_clears_its_own_entries_only(tmp_path: Path) -> None:
    url, source = str(tmp_path / "docs.zarr"), docs(tmp_path, "a.jsonl", (1, "one"), (2, ""), "{ broken")
    embed(source, url, model="hash:8")
    docs(tmp_path, "a.jsonl", (1, "one"), (2, "two"), (3, "three"))
    embed(source, url, model="hash:8", epoch=1)
    assert open_ids(url) == [2, "a.jsonl line 3"] and {failure.epoch for failure in Ledger(url).all()} == {0}
    embed(source, url, model="hash:8")
    assert open_ids(url) == []


def test_an_old_ledger_s_entries_are_of_epoch_0(tmp_path: Path) -> None:
    url = str(tmp_path / "docs.zarr")
    Path(url + ".failures.jsonl").write_text('{"id": "doc-3", "stage": "check", "reason": "why", "place": "", "sample": ""}\n')
    assert Ledger(url).all() == [Failure("doc-3", "check", "why", epoch=0)] and Ledger(url).clear(["doc-3"], epoch=1) == 0
    assert Ledger(url).clear(["doc-3"]) == 1


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("between", [0, 1500])
@pytest.mark.parametrize("passages", [None, 100])
def test_bad_then_good_is_mended(passages: int | None, between: int, workers: int, tmp_path: Path) -> None:
    url, first = str(tmp_path / "docs.zarr"), {"id": "a", "text": " ", "n": 0}
    rest = [{"id": f"b{n}", "text": f"text {n}", "n": n} for n in range(between)]
    good = {"id": "a", "text": "good", "n": 1}
    for _ in range(2):          # the second finds the row there
        report = embed([first, *rest, good, {"id": "c", "text": " ", "n": 3}], url, model="hash:8", keep=["n:int64"],
                       passages=passages, workers=workers)
        assert report.failed == 2 and rows(url) == between + 1 and open_ids(url) == ["c"]
    report = embed([first, *rest, {**good, "text": "better"}], url, model="hash:8", keep=["n"], passages=passages)
    assert (report.changed, report.failed) == (1, 1) and open_ids(url) == ["c"]
    good["text"] = "better"
    embed([good, *rest, first], url, model="hash:8", keep=["n"], passages=passages, workers=workers)
    assert "a" in open_ids(url)         # the last one of the source is bad


def test_bad_then_good_is_open_until_the_writer_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, close, seen = str(tmp_path / "docs.zarr"), zstore.Writer.close, []

    def closing(writer: Any) -> None:
        seen.append(open_ids(url))
        close(writer)

    monkeypatch.setattr(zstore.Writer, "close", closing)
    embed([("a", " "), *((f"b{n}", f"text {n}") for n in range(1500)), ("a", "good")], url, model="hash:8", commit_s=0.001)
    assert seen[0] == ["a"] and open_ids(url) == []
    embed([("a", " "), ("a", "good"), ("a", "another")], url, model="hash:8")
    assert open_ids(url) == ["a"] and "twice" in Ledger(url).all()[0].reason


def test_skip_clears_nothing_that_failed_again(tmp_path: Path) -> None:
    url, source = str(tmp_path / "docs.zarr"), docs(tmp_path, "a.jsonl", (1, "one"), (2, ""), "{ broken")
    embed(source, url, model="hash:8")
    report = embed(source, url, model="hash:8", on_bad="skip")
    assert (report.failed, report.left_out) == (0, 2) and open_ids(url) == [2, "a.jsonl line 3"]


def test_what_the_source_has_no_more_leaves_the_ledger(tmp_path: Path) -> None:
    url, source = str(tmp_path / "docs.zarr"), docs(tmp_path, "a.jsonl", (1, "one"), (2, ""), (3, " "))
    embed(source, url, model="hash:8")
    embed([(4, "")], url, model="hash:8")
    docs(tmp_path, "a.jsonl", (1, "one"), (2, ""))
    embed(source, url, model="hash:8", limit=1)
    assert open_ids(url) == [2, 3, 4]
    embed(source, url, model="hash:8")
    assert open_ids(url) == [2, 4]


def test_a_text_that_became_passages_is_mended(tmp_path: Path) -> None:
    url = str(tmp_path / "docs.zarr")
    embed([(1, "one"), (2, ""), ("x#2", "")], url, model="hash:8", passages=10)
    embed([(2, "two words and some more"), (1, "one")], url, model="hash:8", passages=10)
    assert open_ids(url) == ["x#2"]
    whole = str(tmp_path / "whole.zarr")
    embed([("a", ""), ("b", "")], whole, model="hash:8")
    embed([("a#0", "its own text")], whole, model="hash:8")        # no passage of a
    assert open_ids(whole) == ["a", "b"]


def test_a_source_that_can_not_be_named_again_is_remembered_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, source = str(tmp_path / "docs.zarr"), docs(tmp_path, "a.jsonl", (1, "one"), (2, ""))
    monkeypatch.chdir(tmp_path)
    embed("a.jsonl", url, model="hash:8")
    first = Ledger(url).run or {}
    assert (first["source"], first["typed"], first["model"]) == (source, "a.jsonl", "hash:8")
    embed(iter([(1, "one")]), url, model=HashingEncoder(8))
    last = Ledger(url).run or {}
    assert last["source"] is None and last["model"] is None and "typed" not in last


def test_who_is_refused_writes_nothing(tmp_path: Path) -> None:
    url, source = str(tmp_path / "docs.zarr"), docs(tmp_path, "a.jsonl", (1, "one"), (2, ""))
    embed(source, url, model="hash:8")
    before = Path(url + ".failures.jsonl").read_bytes()
    program = "import sys, zstore; w = zstore.Writer(sys.argv[1]); print('open', flush=True); sys.stdin.readline()"
    with subprocess.Popen([sys.executable, "-c", program, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None and owner.stdout.readline()
        with pytest.raises(Conflict):
            embed(docs(tmp_path, "b.jsonl", (1, "two"), (3, "")), url, model="hash:8")
        owner.communicate(b"\n", timeout=60)
    assert Path(url + ".failures.jsonl").read_bytes() == before


def test_the_same_failures_again_add_no_lines(tmp_path: Path) -> None:
    url, source = str(tmp_path / "docs.zarr"), docs(tmp_path, "a.jsonl", (1, "one"), (2, ""), "{ broken")
    embed(source, url, model="hash:8")
    before = lines(url)
    embed(source, url, model="hash:8")
    assert lines(url) == before and len(before) == 3
