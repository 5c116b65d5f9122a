"""``zstore failures``: what could not be embedded, why, and once more."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import zstore
from zstore.embed import embed
from zstore.embed.hashing import HashingEncoder
from zstore.embed.ledger import Ledger

HOLDS = """
    import sys
    import zstore

    writer = zstore.Writer(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
"""
GOOD = [{"id": f"doc-{n}", "text": f"text number {n}", "title": f"T{n}"} for n in range(20)]


class Nameless(HashingEncoder):
    """A model that can't be named on a command line."""


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
    assert done.code == 0 and "4 items not embedded" in done.err
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
    write(tmp_path / "docs.jsonl", rows)
    facts = ran("failures", "retry", store, "--json").facts
    assert (facts["retried"], facts["mended"], facts["failed"], facts["written"]) == (4, 3, 1, 3)
    assert ids(store) == {row["id"] for row in GOOD} - {"doc-5"}
    with zstore.Reader(store) as reader:
        assert len(reader) == 19 and reader.latest().get("doc-11", field="title") == "T11"
    assert [failure.id for failure in Ledger(store).all()] == ["doc-5"]
    rows[5]["text"] = "text number 5"
    rows[0]["text"] = "changed, but it did not fail"
    write(tmp_path / "docs.jsonl", [*rows, rows[5], {"id": "new", "text": "new, and it never failed", "title": ""}])
    done = ran("failures", "retry", store)
    assert done.code == 0 and "1 of 1 item retried; 0 items not embedded" in done.out
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
    embed([("a", "one"), ("b", "")], url, model=Nameless(64))
    done = ran("failures", "retry", url)
    assert done.code == 2 and "name one, zstore failures retry URL SRC" in done.err
    source = write(tmp_path / "docs.jsonl", [{"id": "b", "text": "two"}])
    done = ran("failures", "retry", url, source)
    assert done.code == 2 and "--model" in done.err
    assert ran("failures", "retry", url, source, "--model", "hash:64", "--json").facts["mended"] == 1
    assert ids(url) == {"a", "b"}


def test_a_mended_line_that_stands_elsewhere_now_is_embedded(store: str, ran: Any, tmp_path: Path) -> None:
    rows: list[Any] = [{"id": "first", "text": "a line above", "title": ""}, *map(dict, GOOD)]
    rows[8]["text"] = "\ud800"
    write(tmp_path / "docs.jsonl", rows)
    facts = ran("failures", "retry", store, "--json").facts
    assert ids(store) == {row["id"] for row in rows} - {"doc-7"}      # doc-11 too, whose line was no JSON
    assert (facts["mended"], facts["failed"]) == (3, 1) and [failure.id for failure in Ledger(store).all()] == ["doc-7"]


def test_a_broken_line_that_stands_elsewhere_now_is_said_to_be_there(store: str, ran: Any, tmp_path: Path) -> None:
    rows: list[Any] = [GOOD[0], GOOD[0], *GOOD[1:11], '{"id": "doc-11", "text": ', *GOOD[12:]]
    write(tmp_path / "docs.jsonl", rows)
    assert ran("failures", "retry", store, "--json").facts["failed"] == 1
    (failure,) = Ledger(store).all()
    assert failure.place == f"{tmp_path}/docs.jsonl line 13" and "doc-11" not in ids(store)


def test_lines_without_an_id_are_mended_from_another_source(store: str, ran: Any, tmp_path: Path) -> None:
    mended = write(tmp_path / "docs-mended.jsonl", [GOOD[3], GOOD[5], GOOD[7]])
    done = ran("failures", "retry", store, mended)
    assert "3 of 4 items retried; 1 item not embedded" in done.out
    mended = write(tmp_path / "docs-mended.jsonl", [GOOD[11]])
    done = ran("failures", "retry", store, mended)
    assert "1 of 1 item retried; 0 items not embedded" in done.out and ids(store) == {row["id"] for row in GOOD}
    assert Ledger(store).all() == []


def test_too_few_items_for_lines_without_an_id_clear_none(tmp_path: Path, ran: Any) -> None:
    url = str(tmp_path / "docs.zarr")
    source = write(tmp_path / "docs.jsonl", [GOOD[0], "{ broken", "[ broken"])
    embed(source, url, model="hash:64")
    done = ran("failures", "retry", url, write(tmp_path / "mended.jsonl", GOOD[1:2]))
    assert "embed the whole mended source" in done.err and "1 of 2 items retried; 2 items not embedded" in done.out
    assert ids(url) == {"doc-0", "doc-1"} and len(Ledger(url)) == 2
    write(tmp_path / "docs.jsonl", GOOD[:3])
    embed(source, url, model="hash:64")
    assert len(Ledger(url)) == 0


def test_the_older_run_s_source_is_not_taken_for_the_last_one_s(tmp_path: Path, ran: Any) -> None:
    url = str(tmp_path / "docs.zarr")
    source = write(tmp_path / "a.jsonl", [{"id": 1, "text": "the old text"}, {"id": 2, "text": ""}])
    embed(source, url, model="hash:64")
    embed([(1, "")], url, model="hash:64")
    done = ran("failures", "retry", url)
    assert done.code == 2 and "name one, zstore failures retry URL SRC" in done.err
    assert {failure.id for failure in Ledger(url).all()} == {1, 2}
    embed([source], url, model="hash:64")
    assert (Ledger(url).run or {})["source"] == [source]


def test_retry_from_another_folder(tmp_path: Path, ran: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, text in ((here, ""), (there, "a text of the same name, elsewhere")):
        folder.mkdir()
        (folder / "a.txt").write_text(text)
    write(here / "docs.jsonl", [GOOD[0], "{ broken"])
    monkeypatch.chdir(here)
    embed(["./a.txt", "docs.jsonl"], "docs.zarr", model="hash:64")
    monkeypatch.chdir(there)
    url = str(here / "docs.zarr")
    assert ran("failures", "retry", url, "--json").facts["mended"] == 0 and ids(url) == {"doc-0"}
    (here / "a.txt").write_text("it has words now")
    write(here / "docs.jsonl", GOOD[:2])
    facts = ran("failures", "retry", url, "--json").facts
    assert (facts["retried"], facts["mended"]) == (2, 2) and ids(url) == {"a.txt", "doc-0", "doc-1"}


def test_a_source_s_secrets_are_not_written_down(tmp_path: Path, ran: Any) -> None:
    import fsspec

    fs, url = fsspec.filesystem("memory"), str(tmp_path / "docs.zarr")
    name = "memory://me:SECRET@host/docs.jsonl?X-Sig=SECRET"
    fs.pipe_file("/me:SECRET@host/docs.jsonl?X-Sig=SECRET", b'{"id": "a", "text": ""}\n')
    embed(name, url, model="hash:64", format="jsonl", source_options={"token": "SECRET"})
    assert "SECRET" not in Path(url + ".failures.jsonl").read_text()
    done = ran("failures", "retry", url)
    assert done.code == 2 and "URL with credentials" in done.err
    fs.pipe_file("/me:SECRET@host/docs.jsonl?X-Sig=SECRET", b'{"id": "a", "text": "one"}\n')
    assert ran("failures", "retry", url, name, "--source-option", "token=SECRET", "--json").facts["mended"] == 1


def test_an_open_source_needs_its_options_again(tmp_path: Path, ran: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from zstore.embed import again

    given: list[Any] = []
    read = again.read
    monkeypatch.setattr(again, "read", lambda source, **how: given.append(how["storage_options"]) or read(source, **how))
    url, source = str(tmp_path / "docs.zarr"), write(tmp_path / "docs.jsonl", [{"id": "a", "text": ""}])
    embed(source, url, model="hash:64", source_options={"token": "SECRET"})
    assert ran("failures", "retry", url, "--source-option", "token=SECRET").code == 0
    assert given == [{"token": "SECRET"}]


def test_retry_leaves_other_epochs(tmp_path: Path, ran: Any) -> None:
    url = str(tmp_path / "docs.zarr")
    source = write(tmp_path / "docs.jsonl", [GOOD[0], {"id": "doc-1", "text": ""}])
    embed(source, url, model="hash:64", epoch=3)
    embed(source, url, model="hash:64")
    write(tmp_path / "docs.jsonl", GOOD[:2])
    done = ran("failures", "retry", url, "--json")
    assert done.facts["mended"] == 1 and "1 item of other epochs left" in done.err
    assert [(failure.id, failure.epoch) for failure in Ledger(url).all()] == [("doc-1", 3)]


def test_retry_keeps_the_fields_that_the_store_has(store: str, ran: Any, tmp_path: Path) -> None:
    source = str(tmp_path / "docs.jsonl")
    embed(source, store, model="hash:64")           # keeps what the store keeps, unasked
    write(tmp_path / "docs.jsonl", GOOD)
    assert ran("failures", "retry", store).code == 0
    with zstore.Reader(store) as reader:
        assert set(reader.latest().field("title").tolist()) == {row["title"] for row in GOOD}


def test_mistakes(store: str, ran: Any, tmp_path: Path) -> None:
    for words, code in ((["ls", tmp_path / "none.zarr"], 3), (["retry", tmp_path / "none.zarr"], 3), (["export", store], 2),
                        (["ls", store, "more"], 2), (["export", store, "-", "--json"], 2), (["remove", store], 2)):
        done = ran("failures", *words)
        assert done.code == code and done.err.count("\n") == 1 and "Traceback" not in done.err, words


def test_retry_takes_over_only_when_told(store: str, ran: Any, tmp_path: Path, children: Any) -> None:
    write(tmp_path / "docs.jsonl", list(GOOD))
    child = children.start(HOLDS, store)
    children.line(child)
    refused = ran("failures", "retry", store)
    assert refused.code == 5 and "--takeover" in refused.err and ids(store) != {row["id"] for row in GOOD}
    assert ran("failures", "retry", store, "--takeover").code == 0
    assert ids(store) == {row["id"] for row in GOOD}
