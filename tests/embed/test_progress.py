"""The bar, the callback and the metrics file say the same, and cost the run nothing."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from shared import Counting, documents, rows, write

from zstore.embed import embed, progress
from zstore.embed.dry_run import dry_run
from zstore.embed.engine import Stats
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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no such file")
def test_a_metrics_file_on_a_full_disk_costs_no_vectors(url: str) -> None:
    with pytest.warns(UserWarning, match="metrics file /dev/full can't be written.*No space left") as said:
        embed(documents(50), url, model=Counting(), metrics="/dev/full")
    assert rows(url) == 50 and len(said) == 1


def test_the_bar_is_on_stderr_only(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    embed(documents(50), url, model=Counting(), progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "50/50 docs" in err and "tokens/s" in err and "padding" in err


def test_the_estimate_is_in_tokens_by_the_clock_since_the_model_began(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    report = Report(seen=30, skipped=20)
    meter = Meter(report, 130)
    assert meter.figures()["eta_s"] is None
    now[0] = 104.0          # 2 seconds until 20 were skipped, and 2 in the model
    meter.batch(Stats(tokens=800, padded=1000, seconds=1.5, waited=0.5, budget=1000, known=(20, 1000)))
    report.embedded = 10    # the long ones
    figures = meter.figures()
    assert figures["eta_s"] == round((200 + 90 * 50) / 400, 1)      # 10 have 200 tokens; 90 beyond them the mean
    assert figures["padding"] == 0.2 and figures["tokens_per_s"] == 200     # as the summary has it: by the whole clock
    now[0] = 108.0          # 2 seconds more that are not the model's: an append, a commit
    meter.batch(Stats(tokens=200, padded=250, seconds=2.0, waited=0.0, budget=1000))
    report.embedded = 20
    assert meter.figures()["eta_s"] == round(90 * 50 * 6 / 1000, 1)


def test_what_can_be_counted_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", documents(7))
    assert count_of(path) == count_of(str(path)) == 7 and count_of([path, path]) == 14
    (tmp_path / "a.csv").write_text("id,text\n1,one\n2,two")
    assert count_of(tmp_path / "a.csv") == 2
    assert count_of(documents(3)) == 3 and count_of(iter([])) is None
    assert count_of("-") is None and count_of(tmp_path) is None and count_of(tmp_path / "absent.jsonl") is None
    assert count_of([path, tmp_path]) is None
    packed = tmp_path / "b.csv.gz"
    packed.write_bytes(gzip.compress(b"id,text\n1,one\n2,two"))
    assert count_of(packed) == 2
    (tmp_path / "cut.csv.gz").write_bytes(packed.read_bytes()[:-9])
    assert count_of(tmp_path / "cut.csv.gz") is None
    monkeypatch.setattr(progress, "COUNTED_PACKED", 10)
    assert count_of(packed) is None
    assert (clock(62), clock(3723)) == ("1:02", "1:02:03") and memory() > 0


def test_a_dry_run_times_budgets_and_stores_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "docs.jsonl", [*documents(300), ("bad", "")])
    facts = dry_run(source, tmp_path / "docs.zarr", model="hash:32", sample=100, budgets=(256, 1024))
    assert set(facts["budgets"]) == {256, 1024, 8192} and facts["own"] == 8192 and facts["best"] in facts["budgets"]
    assert facts["sample"] == 100 and all(found["memory_bytes"] > 2**20 for found in facts["budgets"].values())
    assert facts["total"] == 301 and facts["hours"] > 0 and facts["bytes"] > 301 * 32 * 4 and facts["memory_bytes"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["docs.jsonl"]
    with pytest.raises(ValueError, match=r"none of the first 1 items .*: item 0: the text is empty"):
        dry_run([("a", "")], tmp_path / "docs.zarr", model="hash:32")


def test_a_dry_run_recommends_another_budget_only_where_it_is_clearly_faster(tmp_path: Path,
                                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {64: 100.0, 512: 103.0, 8192: 100.0}
    asked: list[tuple[int, int]] = []

    def timed(encoder: Any, texts: list[str], budget: int, *_: Any) -> dict[str, float]:
        asked.append((budget, len(texts)))
        warm = 2 if len(asked) > 4 else 1           # the first round finds another program at work
        return {"docs_per_s": warm * speeds[budget], "tokens_per_s": 1.0, "padding": 0.0, "memory_bytes": len(asked)}

    monkeypatch.setattr("zstore.embed.dry_run._timed", timed)
    how: dict[str, Any] = {"model": "hash:32", "budgets": (64,), "budget": 512}
    facts = dry_run(documents(100), tmp_path / "docs.zarr", **how)
    assert asked == [(64, 64), *[(64, 99), (512, 99), (8192, 99)] * 2]      # warmed up; each twice
    assert facts["own"] == facts["best"] == 8192 and facts["budgets"][512]["docs_per_s"] == 206
    assert facts["hours"] == pytest.approx(99 / 206 / 3600)                 # with the budget that was asked for
    speeds[64] = 110.0
    assert dry_run(documents(100), tmp_path / "docs.zarr", **how)["best"] == 64
