"""A run: every text once, whatever the order, whatever was killed, whatever failed."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared import Counting, documents, held, made, rows, write

import zstore
from zstore.embed import embed
from zstore.embed.hashing import HashingEncoder
from zstore.embed.ledger import Ledger
from zstore.errors import Conflict, ZStoreError

CHILD = """
    import sys
    from pathlib import Path

    sys.path.insert(0, sys.argv[3])
    from shared import Slow
    from zstore.embed import embed

    print("ready", flush=True)
    wait_at = int(sys.argv[5]) if len(sys.argv) > 5 else None
    report = embed(sys.argv[1], sys.argv[2], model=Slow(32, wait_at), commit_s=float(sys.argv[4]), window=64, budget=512)
    print(report.embedded, flush=True)
"""
HERE = Path(__file__).parent


def test_every_text_once(url: str, sound: Callable[[str], None]) -> None:
    docs = documents(3000)
    encoder = Counting()
    report = embed(docs, url, model=encoder)
    assert held(url) == made(docs)
    assert (report.seen, report.embedded, report.copied, report.skipped, report.failed) == (3000, 2970, 30, 0, 0)
    assert encoder.texts == 2970 and rows(url) == 3000
    assert report.tokens > 0 and report.padded >= report.tokens and report.commits >= 1
    sound(url)


def test_again_shuffled_and_with_one_inserted_nothing_is_computed(url: str) -> None:
    docs = documents(2000)
    embed(docs, url, model=Counting())
    again = [("new", "a document in the midst"), *docs]
    random.Random(1).shuffle(again)
    encoder = Counting()
    report = embed(again, url, model=encoder)
    assert encoder.texts == report.embedded == 1 and report.skipped == 2000
    assert held(url) == made(again)


def test_tuesday(url: str) -> None:
    monday = documents(2000)
    embed(monday, url, model=Counting())
    tuesday = [(key, f"{text} changed" if n < 20 else text) for n, (key, text) in enumerate(monday) if n < 1995]
    tuesday += [(f"new-{n}", f"a text of Tuesday, number {n}") for n in range(30)]
    encoder = Counting()
    report = embed(tuesday, url, model=encoder)         # a warning would be an error: changed texts are what it is for
    assert encoder.texts == report.embedded == 50 and report.changed == 20
    assert (report.absent, report.pruned) == (5, 0)
    assert held(url) == made(tuesday) | made(monday[-5:])
    report = embed(tuesday, url, model=Counting(), prune=True)
    assert (report.absent, report.pruned, report.embedded) == (0, 5, 0)
    assert held(url) == made(tuesday)
    assert embed(tuesday, url, model=Counting(), prune=True).pruned == 0


def test_one_bad_file_and_retry_after_a_fix(url: str) -> None:
    docs: list[Any] = documents(1000)
    bad = {10: "", 500: "   ", 501: "\n\t", 999: "half \ud800 of it"}
    source = [(key, bad.get(n, text)) for n, (key, text) in enumerate(docs)]
    report = embed(source, url, model=Counting())
    assert report.failed == 4 and report.embedded + report.copied == 996
    assert {failure.id for failure in Ledger(url).all()} == {f"doc-{n}" for n in bad}
    assert held(url) == made([doc for n, doc in enumerate(docs) if n not in bad])
    again = Counting()
    assert embed(docs, url, model=again).failed == 0
    assert again.texts <= 4 and Ledger(url).all() == []
    assert held(url) == made(docs)


def test_the_wrong_model_is_refused_in_one_sentence_that_names_both(url: str) -> None:
    docs = documents(50)
    embed(docs, url, model="hash:32")
    before = held(url)
    with pytest.raises(ValueError, match=r"hash:32.*hash:48") as caught:
        embed(docs, url, model="hash:48")
    assert "\n" not in str(caught.value)
    assert held(url) == before


def test_another_model_may_have_an_epoch_of_its_own(url: str) -> None:
    class Other(Counting):
        def provenance(self) -> dict[str, Any]:
            return {**super().provenance(), "revision": 2}

    docs = documents(200)
    embed(docs, url, model=Counting())
    other = Other()
    assert embed(docs, url, model=other, epoch=1).embedded == other.texts == 198
    with pytest.raises(ValueError, match="revision 2"):
        embed(docs, url, model=Counting(), epoch=1)
    with zstore.Reader(url) as reader:
        assert reader.epochs.tolist() == [0, 1] and len(reader) == 400


def test_a_store_that_was_not_embedded_is_refused(url: str) -> None:
    with zstore.Writer(url) as writer:
        writer.append(["a"], np.ones((1, 32), np.float32))
    with pytest.raises(ValueError, match="not embedded from texts"):
        embed(documents(5), url, model="hash:32")
    assert rows(url) == 1


@pytest.mark.parametrize("commit_s", [0.05, 0.3])
def test_killed_at_random_times(commit_s: float, children: Any, tmp_path: Path, sound: Callable[[str], None]) -> None:
    docs = documents(1500, seed=3)
    source, url = write(tmp_path / "docs.jsonl", docs), str(tmp_path / "killed.zarr")
    rng = random.Random(commit_s)
    counts = [0]
    for _ in range(4):
        child = children.start(CHILD, source, url, HERE, commit_s)
        children.line(child)
        time.sleep(rng.uniform(0.1, 1.2))
        children.kill(child)
        counts.append(rows(url))
    assert counts == sorted(counts)             # what was committed stays
    whole = str(tmp_path / "whole.zarr")
    embed(docs, whole, model=Counting())
    last = Counting()
    embed(source, url, model=last)
    assert last.texts <= 1485 - 0.98 * counts[-1]       # but for copies, nothing committed is computed again
    assert held(url) == held(whole) == made(docs)
    assert rows(url) == 1500
    sound(url)


def test_work_is_committed_while_it_goes_on(children: Any, tmp_path: Path) -> None:
    source, url = write(tmp_path / "docs.jsonl", documents(4000)), str(tmp_path / "run.zarr")
    child = children.start(CHILD, source, url, HERE, 0.2, 20)       # it stands still in the midst
    children.line(child)
    end = time.monotonic() + 30
    while rows(url) == 0 and time.monotonic() < end:
        time.sleep(0.02)
    children.kill(child)
    assert 0 < rows(url) < 4000


def test_two_processes_by_mistake(children: Any, tmp_path: Path) -> None:
    docs = documents(2000)
    source, url = write(tmp_path / "docs.jsonl", docs), str(tmp_path / "run.zarr")
    child = children.start(CHILD, source, url, HERE, 0.2, 20)
    children.line(child)
    while rows(url) == 0:
        time.sleep(0.02)
    with pytest.raises(Conflict, match=f"pid {child.pid}"):
        embed([*docs, ("bad", "")], url, model=Counting())
    assert Ledger(url).all() == []
    children.tell(child)
    assert children.line(child) == "1980"
    assert held(url) == made(docs)


def test_an_interrupt_commits_and_goes_on_its_way(url: str) -> None:
    docs = documents(2000)
    with pytest.raises(KeyboardInterrupt):
        embed(docs, url, model=Counting(stop_at=1000), window=100, budget=256)
    there = rows(url)
    assert 900 < there < 1000
    again = Counting()
    embed(docs, url, model=again)
    assert again.texts <= 1980 - 0.98 * there
    assert held(url) == made(docs)


def test_equal_texts_are_computed_once_within_a_run_and_across_runs(url: str) -> None:
    first = Counting()
    report = embed([(n, "the very same") for n in range(5000)], url, model=first, window=16)
    assert first.texts == report.embedded == 1 and report.copied == 4999
    second = Counting()
    report = embed([(n, "the very same") for n in range(4990, 5010)], url, model=second)
    assert second.texts == 0 and (report.copied, report.skipped) == (10, 10)
    assert set(held(url).values()) == set(made([("x", "the very same")]).values()) and rows(url) == 5010


def test_texts_equal_to_one_that_fails_fail_with_it(url: str) -> None:
    class Picky(HashingEncoder):
        def encode(self, tokens: Any) -> Any:
            if any(len(each) == 3 for each in tokens):
                raise RuntimeError("three words are too many")
            return super().encode(tokens)

    report = embed([("a", "one two"), ("b", "one two three"), ("c", "one two three")], url, model=Picky(32))
    assert (report.embedded, report.failed) == (1, 2)
    failures = {failure.id: failure for failure in Ledger(url).all()}
    assert set(failures) == {"b", "c"} and "three words" in failures["c"].reason and failures["b"].stage == "encode"


def test_an_id_that_comes_twice(url: str) -> None:
    docs = [("a", "first"), ("b", "other"), ("a", "second"), ("b", "other")]
    for _ in range(2):          # the second time from the store
        report = embed(docs, url, model=Counting())
        assert report.failed == 1
        (failure,) = Ledger(url).all()
        assert failure.id == "a" and "twice" in failure.reason
        assert held(url) == made([("a", "first"), ("b", "other")]) and rows(url) == 2


def test_kept_fields_and_their_changes(url: str, tmp_path: Path) -> None:
    docs: list[dict[str, Any]] = [{"id": n, "text": f"text {n}", "title": f"Title {n}", "year": 1900 + n, "score": n / 2}
                                  for n in range(100)]
    source = write(tmp_path / "docs.jsonl", docs)
    embed(source, url, model=Counting(), keep=["title", "year", "score"])
    docs[7]["title"], docs[8]["year"] = "A new title", 2000
    docs[9]["year"] = "unknown"
    write(source, docs)
    encoder = Counting()
    with pytest.warns(UserWarning, match=r"'year' of 1 items is not float64 .* has 'unknown'; .*--keep year:string"):
        report = embed(source, url, model=encoder)
    assert encoder.texts == 0 and (report.copied, report.skipped, report.failed) == (3, 97, 0)
    with zstore.Reader(url) as reader:
        view = reader.latest()
        at = {key: row for row, key in enumerate(view.ids.tolist())}
        titles, years = view.field("title"), view.field("year")
        assert titles[at[7]] == "A new title" and years[at[8]] == 2000 and np.isnan(years[at[9]])
        assert years.dtype == np.float64 and view.field("score").dtype == np.float64
    with pytest.raises(ValueError, match=r"keeps title, year, score.*keep title"):
        embed(source, url, model=Counting(), keep=["title"])


def test_ids_of_the_other_kind(url: str) -> None:
    embed([(1, "one"), (2, "two")], url, model=Counting())
    assert embed([(3, "three"), ("four", "four"), ("5", "five")], url, model=Counting()).failed == 1
    assert set(held(url)) == {1, 2, 3, 5} and "id='NAME:string'" in Ledger(url).all()[0].reason


def test_integers_among_strings_become_strings(url: str) -> None:
    assert embed([("a", "one"), (2, "two"), (None, "three"), ("", "four")], url, model=Counting()).failed == 2
    assert set(held(url)) == {"a", "2"}


def test_passages_know_their_parent_and_are_resumed(url: str) -> None:
    text = " ".join(f"word{n}" for n in range(200))
    embed([("a", text), ("b", "short")], url, model=Counting(), passages=100, overlap=20)
    encoder = Counting()
    embed([("b", "short"), ("a", text)], url, model=encoder, passages=100, overlap=20)
    assert encoder.texts == 0
    with zstore.Reader(url) as reader:
        assert set(reader.field("parent").tolist()) == {"a", "b"}
        offsets = reader.field("offset")[[key.startswith("a#") for key in reader.ids.tolist()]]
        assert len(offsets) > 10 and len(set(offsets.tolist())) == len(offsets)
    with pytest.raises(ValueError, match="parent"):
        embed([("a", text)], url, model=Counting())


def test_nothing_is_pruned_that_may_be_there(url: str, tmp_path: Path) -> None:
    docs = documents(10)
    source = write(tmp_path / "docs.jsonl", docs)
    embed(source, url, model=Counting())
    lines = source.read_text().splitlines()
    source.write_text("\n".join(["{ not json", *lines[1:]]) + "\n")
    with pytest.warns(UserWarning, match="nothing was hidden"):
        report = embed(source, url, model=Counting(), prune=True)
    assert (report.pruned, report.absent) == (0, 1) and len(held(url)) == 10
    write(source, [(docs[0][0], ""), *docs[1:]])        # a bad text is no missing one
    assert embed(source, url, model=Counting(), prune=True).pruned == 0
    assert [failure.id for failure in Ledger(url).all()] == ["doc-0"]       # the line without an id is mended
    write(source, docs[2:])
    assert embed(source, url, model=Counting(), prune=True).pruned == 2
    with pytest.raises(ValueError, match="limit"):
        embed(source, url, model=Counting(), prune=True, limit=3)


def test_a_store_that_is_no_folder() -> None:
    url = "memory://embedded/run.zarr"
    docs = [*documents(300), ("bad", "")]
    assert embed(docs, url, model=Counting()).failed == 1 and len(Ledger(url).all()) == 1
    again = Counting()
    report = embed([*docs[:299], ("bad", "mended")], url, model=again, prune=True)
    assert again.texts == 1 and (report.skipped, report.pruned) == (299, 1) and Ledger(url).all() == []
    assert held(url) == made([*documents(299), ("bad", "mended")])


def test_limit_takes_the_first(url: str) -> None:
    docs = documents(40)
    report = embed(docs, url, model=Counting(), limit=10)
    assert (report.seen, report.absent) == (10, 0) and held(url) == made(docs[:10])


def test_on_bad_and_max_failures(url: str) -> None:
    docs = [("a", "good"), ("b", ""), ("c", "fine"), ("d", " ")]
    report = embed(docs, url, model=Counting(), on_bad="skip")
    assert report.failed == 0 and Ledger(url).all() == [] and rows(url) == 2
    with pytest.raises(ZStoreError, match=r"'b'.*empty"):
        embed(docs, url, model=Counting(), on_bad="fail")
    with pytest.raises(ZStoreError, match="2 items failed, and 1 are allowed"):
        embed([*docs, ("e", "late")], url, model=Counting(), max_failures=1)
    assert len(Ledger(url).all()) == 2
    assert embed(docs, url, model=Counting(), max_failures=2).failed == 2
    with pytest.raises(ValueError, match="on_bad"):
        embed(docs, url, model=Counting(), on_bad="ignore")      # type: ignore[arg-type]


def test_what_was_embedded_before_an_error_of_the_source_is_kept(url: str) -> None:
    def broken() -> Any:
        yield from documents(50)        # all different: copies are left to the next run
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        embed(broken(), url, model=Counting())
    assert held(url) == made(documents(50))


def test_a_mistyped_source_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        embed(tmp_path / "absent.jsonl", tmp_path / "run.zarr", model="hash:32")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("option", "words"), [("batch_size", "budget, in padded tokens"), ("nonsense", "the writer's codec")])
def test_an_option_that_there_is_not(option: str, words: str, url: str) -> None:
    with pytest.raises(TypeError, match=f"embed has no option '{option}': .*{words}"):
        embed(documents(5), url, model="hash:32", **{option: 32})


def test_one_store_has_one_dimension(url: str) -> None:
    embed(documents(5), url, model="hash:32")
    with pytest.raises(ValueError, match=r"32 dimensions as float32, and those of the model hash:48 have 48 .* one dimension"):
        embed(documents(5), url, model="hash:48", epoch=1)


def test_a_run_has_a_process(url: str) -> None:
    with pytest.raises(ValueError, match="workers is 0"):
        embed(documents(5), url, model="hash:32", workers=0)


def test_a_model_without_memory_for_anything_is_an_error_or_a_failure_never_a_vector(url: str) -> None:
    with warnings.catch_warnings():
        report = embed(documents(8), url, model=Counting(stop_at=1, error=MemoryError))
    assert report.failed == 8 and report.embedded == 0 and rows(url) == 0
