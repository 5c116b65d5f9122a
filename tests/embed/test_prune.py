"""What is hidden, and what never is: rows whose source was emptied, is read by a wrong column, or can't be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from shared import Counting, documents, held, made, rows, write

import zstore
from zstore.cli.main import main
from zstore.embed import embed
from zstore.embed.ledger import Ledger
from zstore.errors import Conflict, ZStoreError


def version(url: str) -> int:
    with zstore.Reader(url) as reader:
        return reader.version


@pytest.mark.parametrize("prune", [True, "all"])
def test_an_emptied_source_hides_nothing(prune: Any, url: str, tmp_path: Path) -> None:
    docs = documents(20)
    source = write(tmp_path / "docs.jsonl", docs)
    embed(source, url, model=Counting())
    source.write_text("")
    before = version(url)
    with pytest.raises(ZStoreError, match=r"the source holds no items, so none of the 20 rows"):
        embed(source, url, model=Counting(), prune=prune)
    assert version(url) == before and held(url) == made(docs)
    assert embed(source, url, model=Counting()).absent == 20


def test_more_than_half_is_hidden_only_on_purpose(url: str) -> None:
    docs = documents(20)
    embed(docs, url, model=Counting())
    assert embed(docs[:10], url, model=Counting(), prune=True).pruned == 10      # half
    other = [(f"{key}-of-another-column", text) for key, text in docs[:10]]
    with pytest.raises(ZStoreError, match=r'10 of its 10 rows .* more than half.*prune="all"'):
        embed(other, url, model=Counting(), prune=True)
    assert held(url) == made(docs[:10]) | made(other)
    report = embed(other[:3], url, model=Counting(), prune="all")
    assert (report.pruned, report.absent) == (17, 0) and held(url) == made(other[:3])
    with pytest.raises(ValueError, match="'some'"):
        embed(other, url, model=Counting(), prune="some")       # type: ignore[arg-type]


def test_the_command_says_how_more_is_hidden_on_purpose(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs = documents(20)
    source = write(tmp_path / "docs.jsonl", docs)
    words = ["embed", str(source), "--to", url, "--model", "hash:32"]
    assert main(words) == 0
    write(source, [(docs[0][0], "another text"), docs[1]])
    assert main([*words, "--prune"]) == 1
    assert "--prune-all" in capsys.readouterr().err and len(held(url)) == 20
    write(source, [(docs[0][0], "a third text"), docs[1]])
    assert main([*words, "--prune-all"]) == 0
    assert "1 of them were there with another text" in capsys.readouterr().out and len(held(url)) == 2


def test_the_command_does_not_advise_what_it_was_told(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs = documents(20)
    source = write(tmp_path / "docs.jsonl", docs)
    words = ["embed", str(source), "--to", url, "--model", "hash:32"]
    assert main(words) == 0
    write(source, docs[:19])
    assert main(words) == 0 and "1 row not in the source any more; --prune hides them" in capsys.readouterr().out
    source.write_text(source.read_text() + "{ broken\n")
    assert main([*words, "--prune"]) == 0
    told = capsys.readouterr()
    assert "nothing was hidden" in told.err and "1 row not in the source any more\n" in told.out


def test_ids_are_counted_not_rows(url: str) -> None:
    for text in ("one", "two", "three"):
        embed([("a", text), ("b", "stays"), ("c", "stays too")], url, model=Counting())
    report = embed([("b", "stays"), ("c", "stays too")], url, model=Counting())
    assert (report.absent, report.pruned) == (1, 0)
    report = embed([("b", "stays"), ("c", "stays too")], url, model=Counting(), prune=True)
    assert (report.absent, report.pruned) == (0, 1)


def _ids(url: str) -> list[str]:
    with zstore.Reader(url) as reader:
        return sorted(reader.latest().ids.tolist())


def test_a_text_that_became_shorter_leaves_no_old_passages(url: str) -> None:
    long = " ".join(f"word{n}" for n in range(70))
    how: dict[str, Any] = {"model": Counting(), "passages": 100}
    embed([("a", long), ("b", long), ("c", "short")], url, **how)
    assert {"a#4", "b#4", "c#0"} <= set(_ids(url))
    report = embed([("a", "brief")], url, limit=1, **how)        # whether all of it was read is unknown
    assert (report.changed, report.pruned) == (1, 0) and "a#4" in _ids(url)
    report = embed([("a", "brief"), ("c", "short")], url, **how)
    assert [id for id in _ids(url) if not id.startswith("b")] == ["a#0", "c#0"]
    assert report.pruned > 3 and report.absent > 3              # b is not in the source, and may come back
    assert held(url)["a#0"] == made([("x", "brief")])["x"] and "b#4" in _ids(url)
    embed([("a", ""), ("c", "short")], url, **how)              # a bad text is no shorter one
    assert "a#0" in _ids(url)


def test_passages_of_two_cuts_are_refused_and_both_named(url: str) -> None:
    long = " ".join(f"word{n}" for n in range(70))
    embed([("a", long)], url, model=Counting(), passages=100, overlap=20)
    before = held(url)
    for passages, overlap in ((100, 0), (60, 20)):
        with pytest.raises(ValueError, match=rf"100 characters that overlap by 20.*{passages} characters .* by {overlap}"):
            embed([("a", long)], url, model=Counting(), passages=passages, overlap=overlap)
    assert held(url) == before
    with zstore.Reader(url) as reader:
        assert (reader.attrs["embedding"]["passages"], reader.attrs["embedding"]["overlap"]) == (100, 20)


def test_a_store_that_says_nothing_of_its_passages_is_taken_as_it_is(url: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zstore.embed.provenance.cut", lambda *_: {})
        embed([("a", "some words")], url, model=Counting(), passages=100)
    assert embed([("a", "some words")], url, model=Counting(), passages=60).skipped == 1


def test_a_kept_field_may_be_called_parent(url: str) -> None:
    docs = [{"id": n, "text": f"text {n}", "parent": "x"} for n in range(5)]
    embed(docs, url, model=Counting(), keep=["parent"])
    report = embed(docs[:4], url, model=Counting())
    assert (report.skipped, report.absent, report.pruned) == (4, 1, 0)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_with_nothing_to_do_publishes_nothing(workers: int, url: str) -> None:
    docs = documents(30)
    embed(docs, url, model="hash:32")
    before = version(url)
    report = embed([*docs, ("bad", "")], url, model="hash:32", workers=workers)
    assert (report.skipped, report.failed, report.commits) == (30, 1, 0) and version(url) == before
    assert embed([*docs, ("new", "one")], url, model="hash:32", workers=workers).commits >= 1
    assert rows(url) == 31


def test_nothing_is_made_of_nothing(url: str, tmp_path: Path) -> None:
    assert embed([], url, model="hash:32").seen == 0
    assert embed([("a", ""), ("b", " ")], url, model="hash:32").failed == 2
    assert not Path(url).exists()


def test_who_wrote_while_a_run_began_is_noticed(url: str) -> None:
    embed([("a", "one")], url, model="hash:32")

    def source() -> Any:
        yield "b", "two"
        embed([("c", "three")], url, model="hash:32")
        yield "d", "four"

    pairs = source()
    first = next(pairs)

    def later() -> Any:
        yield "a", "one"        # read at the door
        yield first
        yield from pairs

    with pytest.raises(Conflict, match="run it again"):
        embed(later(), url, model="hash:32")
    assert held(url) == made([("a", "one"), ("c", "three")])


@pytest.mark.parametrize(("change", "error", "said"), [
    ({"source": "nofile.jsonl"}, FileNotFoundError, "nofile"), ({"metrics": "no/folder/m.jsonl"}, FileNotFoundError, "m.jsonl"),
    ({"metrics": "."}, IsADirectoryError, "folder"), ({"keep": ["text_hash"]}, ValueError, "text_hash"),
    ({"keep": ["titel"]}, ValueError, "titel"), ({"codec": "raw"}, ValueError, "codec"),
])
def test_what_is_wrong_at_the_door_is_said_before_the_model_is_loaded(
        change: dict[str, Any], error: type[Exception], said: str, url: str, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "docs.jsonl", documents(5))
    if "codec" in change:
        embed(source, url, model="hash:32")
    with pytest.raises(error, match=said):
        embed(**{"source": source, "to": url, "model": "no-such-model", **change})


def test_a_bad_text_keeps_its_own_passages_and_no_others(url: str) -> None:
    """Of a document that turned bad the passages stay; documents that are gone are hidden all the same."""
    how: dict[str, Any] = {"model": Counting(), "passages": 20}
    docs = [(f"d{n}", f"document {n} has some words more") for n in range(4)]
    embed(docs, url, **how)
    before = rows(url)
    each = before // 4
    report = embed([docs[0], ("d1", "  "), docs[2]], url, prune=True, **how)
    assert (report.failed, report.pruned, report.absent) == (1, each, 0)
    with zstore.Reader(url) as reader:
        assert set(reader.latest().field("parent").tolist()) == {"d0", "d1", "d2"}
    nul = embed([docs[0], ("d1", "a passage with a \0 in it, and one more behind"), docs[2]], url, prune=True, **how)
    assert nul.failed + nul.embedded > 0 and nul.absent == 0


def test_two_documents_of_one_id_are_not_mixed(url: str) -> None:
    docs = [("d", "one two three four five"), ("d", "another text of many more words than the first"), ("e", "more")]
    report = embed(docs, url, model=Counting(), passages=10)
    assert report.failed == 1 and [failure.id for failure in Ledger(url).all()] == ["d"]
    with zstore.Reader(url) as reader:
        assert reader.find(["d#0"]) >= 0 and reader.find(["e#0"]) >= 0
        held_rows = reader.latest().field("parent").tolist().count("d")
    assert embed([docs[0], docs[0], docs[2]], url, model=Counting(), passages=10).skipped == 2 * held_rows + 1
