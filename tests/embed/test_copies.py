"""Equal texts are computed once, however many there are and wherever they wait; and what is copied is committed as it goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from shared import Counting, held, made, rows

import zstore
from zstore.embed import copies, embed, waiting
from zstore.embed.resume import Job


def test_those_that_wait_come_in_order_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_TOGETHER", 7)
    line = waiting.Waiting(20)
    came: list[int] = []
    for start in range(0, 300, 50):
        line.add([Job(n, n * n, (n, "x"), f"line {n}", n % 2 == 0) for n in range(start, start + 50)])
        assert len(line.first) <= 20 + 7 and len(line) == start + 50 - len(came)
        came += [job.id for job in line.first[:10]]
        line.keep(line.first[10:])
    while line:
        assert all((job.hash, job.values, job.place, job.changed) == (job.id ** 2, (job.id, "x"), f"line {job.id}",
                   job.id % 2 == 0) for job in line.first)
        came += [job.id for job in line.first]
        line.keep([])
    assert came == [*range(300)]


@pytest.mark.parametrize("workers", [1, 2])
def test_no_text_is_computed_twice(workers: int, url: str, monkeypatch: pytest.MonkeyPatch,
                                   sound: Callable[[str], None]) -> None:
    monkeypatch.setattr(copies, "_READY", 64)
    monkeypatch.setattr(copies, "_WAITING", 100)
    monkeypatch.setattr(waiting, "_TOGETHER", 16)
    texts = {n: f"text {n // 2 % 400}" for n in range(5000)}
    report = embed(texts.items(), url, model=Counting(), workers=workers, window=64)
    assert (report.embedded, report.copied) == (400, 4600)
    assert held(url) == made(list(texts.items())) and rows(url) == 5000
    sound(url)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_field_of_all_that_changed_and_new_ids_of_old_texts_cost_the_model_nothing(
        workers: int, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "_READY", 64)
    monkeypatch.setattr(copies, "_WAITING", 100)
    docs = [{"id": n, "text": f"text {n}", "title": f"title {n}"} for n in range(3000)]
    embed(docs, url, model=Counting(), keep=["title"])
    again: list[Any] = [{**doc, "title": f"another {doc['id']}"} for doc in docs]
    again += [{**doc, "id": 5000 + doc["id"]} for doc in docs]
    again.append({"id": 9999, "text": "the only new one", "title": ""})
    report = embed(again, url, model=Counting(), workers=workers)
    assert (report.embedded, report.copied, report.changed) == (1, 6000, 0)
    assert held(url) == made([(doc["id"], doc["text"]) for doc in again])
    with zstore.Reader(url) as reader:
        view = reader.latest()
        assert dict(zip(view.ids.tolist(), view.field("title").tolist(), strict=True)) == {
            doc["id"]: doc["title"] for doc in again}


def test_what_is_copied_is_committed_as_the_run_goes(url: str) -> None:
    embed([(n, f"text {n}") for n in range(1500)], url, model=Counting())

    def source() -> Iterator[tuple[int, str]]:
        for n in range(3000):
            if n == 2800:           # the texts of all are there: the model has nothing to do
                end = time.monotonic() + 60
                while rows(url) == 1500 and time.monotonic() < end:
                    time.sleep(0.01)
                seen.append(rows(url))
            yield 10_000 + n, f"text {n % 1500}"

    seen: list[int] = []
    report = embed(source(), url, model=Counting(), commit_s=0.01)
    assert report.copied == 3000 and 1500 < seen[0] < 4500


def test_texts_that_changed_are_counted_and_not_warned_of(url: str) -> None:
    embed([(n, f"text {n}") for n in range(10)], url, model=Counting())
    again = [(n, "text 9" if n < 2 else f"other text {n}" if n < 5 else f"text {n}") for n in range(12)]
    report = embed(again, url, model=Counting())
    assert (report.changed, report.embedded, report.copied, report.skipped) == (5, 5, 2, 5)
    assert held(url) == made(again)


def test_the_rest_is_copied_some_rows_at_a_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "_WAITING", 64)
    monkeypatch.setattr(waiting, "_TOGETHER", 16)
    most: list[int] = []
    taken = copies.Copies.taken

    def counted(self: copies.Copies) -> Any:
        found = taken(self)
        most.append(len(found[0]))
        return found
    monkeypatch.setattr(copies.Copies, "taken", counted)
    docs = [(n, f"text {n % 3}") for n in range(2000)]
    report = embed(docs, url, model="hash:32", workers=2)
    assert (report.embedded, report.copied) == (3, 1997) and held(url) == made(docs)
    assert max(most) <= 64 + 16
