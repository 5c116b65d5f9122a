"""The bar, the callback and the metrics file say the same, and cost the run nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shared import Counting, documents, rows, write

from zstore.embed import embed, progress
from zstore.embed.dry_run import dry_run
from zstore.embed.progress import Meter, clock, count_of, memory
from zstore.embed.types import Report


def test_callback_and_metrics_file_say_the_same(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    told: list[dict[str, Any]] = []
    metrics = tmp_path / "metrics.jsonl"
    embed(documents(500), url, model=Counting(), progress=told.append, metrics=metrics, budget=512)
    assert [json.loads(line) for line in metrics.read_text().splitlines()] == told and len(told) > 2
    last = told[-1]
    assert last["done"] == last["total"] == 500 and last["embedded"] == 495 and last["copied"] == 5
    assert last["tokens"] > 0 and last["docs_per_s"] > 0 and last["memory_bytes"] > 2**20
    assert [figures["done"] for figures in told] == sorted(figures["done"] for figures in told)
    embed(documents(510), url, model=Counting(), metrics=metrics)
    assert len(metrics.read_text().splitlines()) > len(told)        # a second run goes on behind the first


def test_a_callback_that_raises_costs_no_vectors(url: str) -> None:
    def broken(figures: dict[str, Any]) -> None:
        raise OSError("no display")

    with pytest.warns(UserWarning, match="progress callback raised OSError"):
        embed(documents(50), url, model=Counting(), progress=broken)
    assert rows(url) == 50


def test_the_bar_is_on_stderr_only(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    embed(documents(50), url, model=Counting(), progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "50/50 docs" in err and "tokens/s" in err and "padding" in err


def test_the_estimate_is_in_tokens() -> None:
    report = Report(seen=30, embedded=10, skipped=20)
    meter = Meter(report, 130)
    assert meter.figures()["eta_s"] is None
    meter.batch(tokens=1000, padded=1250, seconds=2.0)
    figures = meter.figures()
    assert figures["eta_s"] == 20.0         # 100 left, 100 tokens each, 500 a second
    assert figures["padding"] == 0.2 and figures["tokens_per_s"] == 500


def test_what_can_be_counted_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", documents(7))
    assert count_of(path) == count_of(str(path)) == 7 and count_of([path, path]) == 14
    (tmp_path / "a.csv").write_text("id,text\n1,one\n2,two")
    assert count_of(tmp_path / "a.csv") == 2
    assert count_of(documents(3)) == 3 and count_of(iter([])) is None
    assert count_of("-") is None and count_of(tmp_path) is None and count_of(tmp_path / "absent.jsonl") is None
    assert count_of([path, tmp_path]) is None
    assert (clock(62), clock(3723)) == ("1:02", "1:02:03") and memory() > 0


def test_a_dry_run_times_budgets_and_stores_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "docs.jsonl", [*documents(300), ("bad", "")])
    facts = dry_run(source, model="hash:32", sample=100, budgets=(256, 1024))
    assert set(facts["budgets"]) == {256, 1024} and facts["best"] in facts["budgets"]
    assert facts["total"] == 301 and facts["hours"] > 0 and facts["bytes"] > 301 * 32 * 4 and facts["memory_bytes"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["docs.jsonl"]
    with pytest.raises(ValueError, match="none of the first 1 items"):
        dry_run([("a", "")], model="hash:32")
