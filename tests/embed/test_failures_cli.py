"""``zstore failures``: what has no vector, why, and once more."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import zstore
from zstore.cli.main import main
from zstore.embed import embed
from zstore.embed.ledger import Ledger

GOOD = [{"id": f"doc-{n}", "text": f"text number {n}", "title": f"T{n}"} for n in range(20)]


class Ran:
    def __init__(self, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
        self.code = main(words)
        self.out, self.err = capsys.readouterr()

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.out)
        return facts


@pytest.fixture
def ran(capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda *words: Ran(capsys, [str(word) for word in words])


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Twenty documents, of which two are blank, one is half a character and one line is no JSON."""
    rows: list[Any] = [dict(row) for row in GOOD]
    rows[3]["text"], rows[5]["text"], rows[7]["text"] = " ", "", "\ud800"
    rows[11] = '{"id": "doc-11", "text": '
    url = str(tmp_path / "docs.zarr")
    report = embed(write(tmp_path / "docs.jsonl", rows), url, model="hash:64", keep=["title"])
    assert (report.embedded, report.failed) == (16, 4)
    return url


def ids(url: str) -> set[str]:
    with zstore.Reader(url) as reader:
        return set(reader.latest().ids.tolist())


def test_ls(store: str, ran: Any, tmp_path: Path) -> None:
    done = ran("failures", "ls", store)
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert done.code == 0 and "4 items without a vector" in done.err
    assert [row[0] for row in rows] == ["doc-3", "doc-5", "doc-7", ""]
    assert [row[1] for row in rows] == ["check", "check", "check", "source"] and rows[3][3] == f"{tmp_path}/docs.jsonl line 12"
    facts = ran("failures", "ls", store, "--json").facts
    assert len(facts["failures"]) == 4 and facts["failures"][2]["reason"].startswith("the text holds a lone surrogate")


def test_export(store: str, ran: Any, tmp_path: Path) -> None:
    assert ran("failures", "export", store, tmp_path / "bad.jsonl").code == 0
    rows = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["doc-3", "doc-5", "doc-7", None]
    assert ran("failures", "export", store, tmp_path / "bad.csv", "--json").facts["failures"] == 4
    with open(tmp_path / "bad.csv", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["doc-3", "doc-5", "doc-7", ""]
    done = ran("failures", "export", store, "-")
    assert len(done.out.splitlines()) == 4


def test_retry_after_the_source_was_mended(store: str, ran: Any, tmp_path: Path) -> None:
    rows: list[Any] = [dict(row) for row in GOOD]
    rows[5]["text"] = ""
    rows[0]["text"] = "changed, but it did not fail"
    write(tmp_path / "docs.jsonl", [*rows, {"id": "new", "text": "new, and it never failed", "title": ""}])
    facts = ran("failures", "retry", store, "--json").facts
    assert (facts["retried"], facts["mended"], facts["failed"]) == (4, 3, 1)
    assert ids(store) == {row["id"] for row in GOOD} - {"doc-5"}
    with zstore.Reader(store) as reader:
        assert len(reader) == 19 and reader.latest().get("doc-11", field="title") == "T11"
    assert [failure.id for failure in Ledger(store).all()] == ["doc-5"]
    rows[5]["text"] = "text number 5"
    write(tmp_path / "docs.jsonl", rows)
    done = ran("failures", "retry", store)
    assert done.code == 0 and "1 item of 1 item retried; 0 items without a vector" in done.out
    assert ids(store) == {row["id"] for row in GOOD} and not Path(store + ".failures.jsonl").exists()
    assert "nothing to retry" in ran("failures", "retry", store).err
    assert ran("failures", "ls", store).out == ""


def test_retry_from_another_source(store: str, ran: Any, tmp_path: Path) -> None:
    mended = write(tmp_path / "mended.jsonl", [GOOD[3], GOOD[7]])
    facts = ran("failures", "retry", store, mended, "--json").facts
    assert (facts["retried"], facts["mended"], facts["failed"]) == (2, 2, 2)
    assert [failure.id for failure in Ledger(store).all()] == ["doc-5", None]


def test_retry_of_passages(tmp_path: Path, ran: Any) -> None:
    url, rows = str(tmp_path / "docs.zarr"), [{"id": "a", "text": "one two three four"}, {"id": "b", "text": " "}]
    source = write(tmp_path / "docs.jsonl", rows)
    embed(source, url, model="hash:64", passages=10)
    rows[1]["text"] = "five six seven"
    write(tmp_path / "docs.jsonl", rows)
    assert ran("failures", "retry", url, "--json").facts["failed"] == 0
    assert ids(url) == {"a#0", "a#1", "b#0", "b#1"}


def test_what_can_not_be_done_again_is_said(tmp_path: Path, ran: Any) -> None:
    url = str(tmp_path / "docs.zarr")
    embed([("a", "one"), ("b", "")], url, model="hash:64")
    done = ran("failures", "retry", url)
    assert done.code == 2 and "name one, zstore failures retry URL SRC" in done.err
    source = write(tmp_path / "docs.jsonl", [{"id": "b", "text": "two"}])
    done = ran("failures", "retry", url, source)
    assert done.code == 2 and "--model" in done.err
    assert ran("failures", "retry", url, source, "--model", "hash:64", "--json").facts["mended"] == 1
    assert ids(url) == {"a", "b"}


def test_mistakes(store: str, ran: Any, tmp_path: Path) -> None:
    for words, code in ((["ls", tmp_path / "none.zarr"], 3), (["retry", tmp_path / "none.zarr"], 3), (["export", store], 2),
                        (["ls", store, "more"], 2), (["export", store, "-", "--json"], 2), (["remove", store], 2)):
        done = ran("failures", *words)
        assert done.code == code and done.err.count("\n") == 1 and "Traceback" not in done.err, words
