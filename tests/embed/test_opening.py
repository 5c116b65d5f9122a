"""A store that changes under a run: made, or written to, by another process; attributes; what is gathered to be hidden."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared import Counting, held, made

import zstore
from zstore.embed import embed, pruning
from zstore.embed.opening import Opening
from zstore.embed.types import Report
from zstore.errors import Conflict

OTHER = "import sys; from zstore.embed import embed; embed({pairs!r}, {url!r}, model={model!r})"


def other(url: str, pairs: list[tuple[str, str]], model: str = "hash:32") -> None:
    """Another process embeds these, and ends."""
    subprocess.run([sys.executable, "-c", OTHER.format(pairs=pairs, url=url, model=model)], check=True)


def meanwhile(do: Callable[[], Any], first: list[tuple[str, str]], then: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The first of these are read at the door; what is done, is done before the others come."""
    yield from first
    do()
    yield from then


@pytest.mark.parametrize("workers", [1, 2])
def test_a_store_that_another_process_made_meanwhile_is_noticed(workers: int, url: str) -> None:
    theirs = [("a", "text a"), ("b", "text b"), ("c", "text c")]
    ours = [("c", "text c"), ("b", "text b"), ("d", "text a")]
    source = meanwhile(lambda: other(url, theirs), [("x", "text b")], ours)
    with pytest.raises(Conflict, match=r"another process made .*run\.zarr while this run began; run it again"):
        embed(source, url, model="hash:32", workers=workers)
    with zstore.Reader(url) as reader:
        assert reader.ids.tolist() == ["a", "b", "c"]
    assert not Path(url + ".failures.jsonl").exists()
    report = embed([("x", "text b"), *ours], url, model="hash:32", workers=workers)
    assert (report.skipped, report.copied, report.embedded) == (2, 2, 0)


def test_a_store_that_was_made_while_the_processes_began_is_noticed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from zstore.embed import workers

    start = workers.Workers._start

    def late(self: Any) -> None:        # the other one ends before the first of ours is ready
        other(url, [("a", "text a")])
        start(self)

    monkeypatch.setattr(workers.Workers, "_start", late)
    with pytest.raises(Conflict, match="another process made"):
        embed([("a", "text a"), ("b", "text b")], url, model="hash:32", workers=2)
    assert held(url) == made([("a", "text a")])


@pytest.mark.parametrize("model", ["hash:32", "hash:16"])
def test_a_store_that_was_made_in_the_last_moment_is_noticed(model: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_still = Opening._stand_still

    def late(self: Opening) -> None:        # the other one makes its store, and ends, when ours has just looked
        stand_still(self)
        other(url, [("a", "text a")], model)

    monkeypatch.setattr(Opening, "_stand_still", late)
    error, words = (Conflict, "another process made") if model == "hash:32" else (ValueError, "hash:16.* hash:32")
    with pytest.raises(error, match=words):
        embed([("a", "text a"), ("b", "")], url, model="hash:32")
    with zstore.Reader(url) as reader:
        assert reader.ids.tolist() == ["a"]
    assert not Path(url + ".failures.jsonl").exists()


@pytest.mark.parametrize("there", [False, True])
def test_a_store_that_another_model_made_meanwhile_is_refused_and_both_are_named(there: bool, url: str) -> None:
    epoch = int(there)
    if there:
        embed([("z", "zero")], url, model="hash:32")

    def do() -> None:
        code = f"import sys; from zstore.embed import embed; embed([('o', 'one')], {url!r}, model=lambda t: [[1.0] * 32] * " \
               f"len(t), name='ones', epoch={epoch})"
        subprocess.run([sys.executable, "-c", code], check=True)

    with pytest.raises(ValueError, match=r"holds vectors of the model ones.*hash:32"):
        embed(meanwhile(do, [("a", "one")] if there else [], [("b", "two"), ("", "no id")]), url, model="hash:32", epoch=epoch)
    with zstore.Reader(url) as reader:
        assert reader.ids.tolist() == [*["z"] * there, "o"]
    assert not Path(url + ".failures.jsonl").exists()


def test_who_was_refused_at_a_copy_writes_nothing_after_it(url: str) -> None:
    embed([("z", "zero")], url, model=Counting())

    def do() -> None:
        embed([("o", "other")], url, model=Counting())

    source = meanwhile(do, [("n1", "new one"), ("c0", "zero")], [(f"c{n}", "zero") for n in range(1, 5001)])
    with pytest.raises(Conflict, match="was written by another process"):
        embed(source, url, model=Counting())
    assert held(url) == made([("z", "zero"), ("o", "other")])
    assert embed([("n1", "new one")], url, model=Counting()).embedded == 1


def test_who_is_refused_when_the_store_is_open_lets_go_of_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    embed([("z", "zero")], url, model=Counting())
    opening = Opening(url, None, {"dim": 32}, None, lambda there: None)
    begin = opening._open

    def late() -> Any:                  # the other one writes between the look and the opening
        embed([("o", "other")], url, model=Counting())
        return begin()

    monkeypatch.setattr(opening, "_open", late)
    with pytest.raises(Conflict, match="was written by another process") as first:
        opening.writer()
    monkeypatch.undo()
    with pytest.raises(Conflict) as again:
        opening.writer()
    assert again.value is first.value and not opening.is_open and opening.commits() == 0
    assert embed([("p", "third")], url, model=Counting()).embedded == 1     # warns where a writer was left open


def test_attributes_come_without_a_row(url: str) -> None:
    docs = [("a", "one"), ("b", "two")]
    embed(docs, url, model=Counting())
    embed(docs, url, model=Counting(), attrs={"title": "T", "tags": ("x", "y")})
    with zstore.Reader(url) as reader:
        assert (reader.attrs["title"], reader.attrs["tags"]) == ("T", ["x", "y"])
        version = reader.version
    report = embed(docs, url, model=Counting(), attrs={"title": "T", "tags": ("x", "y")})
    with zstore.Reader(url) as reader:
        assert (reader.version, report.commits) == (version, 0)
    assert embed([*docs, ("c", "three")], url, model=Counting(), attrs={"more": 1}).embedded == 1
    with zstore.Reader(url) as reader:
        assert (reader.attrs["more"], len(reader)) == (1, 3)


def test_an_attribute_that_contradicts_is_refused_at_the_door(url: str) -> None:
    embed([("a", "one")], url, model=Counting(), attrs={"title": "T"})
    with pytest.raises(ValueError, match=r"attrs\['title'\]='U' contradicts .* holds 'T'"):
        embed([("a", "one")], url, model="no-such-model", attrs={"title": "U"})
    with pytest.raises(TypeError, match="attrs"):
        embed([("a", "one")], url, model="no-such-model", attrs=["title"])


class Many:
    """As much of a ``Resume`` as there is to settle: 20,000 rows that the source does not name."""

    nameless = 0
    parts = 20

    def absent(self) -> Iterator[Any]:
        for part in range(self.parts):
            yield self.Part(np.array([f"document-number-{part}-{n}" for n in range(1000)], object))

    def live(self) -> Any:
        return range(self.parts * 5000)

    class Part:
        def __init__(self, ids: Any) -> None:
            self.ids = ids


@pytest.mark.parametrize("prune", [False, True])
def test_ids_are_gathered_only_to_be_hidden(prune: bool) -> None:
    hidden: list[Any] = []
    report = Report(seen=1)
    tracemalloc.start()
    pruning.settle("x.zarr", report, Many(), None, prune, whole=True, hide=hidden.append)       # type: ignore[arg-type]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (report.absent, report.pruned) == ((0, 20_000) if prune else (20_000, 0))
    assert [len(ids) for ids in hidden] == [20_000] * prune
    assert prune or most < 500_000      # one part of twenty is 80,000 bytes
