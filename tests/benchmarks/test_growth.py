"""Each sweep at toy size, and what is made of its numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import growth
from benchmarks.growth import report


@pytest.mark.parametrize("axis", growth.AXES)
def test_a_toy_sweep(axis: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert growth.main([axis, "--toy", "--json", str(tmp_path / "{axis}.json"), "--dir", str(tmp_path)]) == 0
    found = json.loads((tmp_path / f"{axis}.json").read_text())
    assert found["axis"] == axis and len(found["points"]) >= 2 and found["machine"]["cores"]
    for point in found["points"]:
        assert {"at", "open_ms", "key_us", "gather_row_us", "latest_ms", "epoch_ms", "rss_mb", "files"} <= set(point)
        assert point["open_requests"] <= 4
    assert {"append_us", "commit_ms"} <= set(found["points"][-1])
    assert axis in capsys.readouterr().out and not list(tmp_path.glob("zstore-growth-*"))


def test_what_grows_is_marked() -> None:
    points = [{"at": at, "commit_ms": 10.0 * at / 100, "open_ms": 5.0} for at in (100, 1_000, 10_000)]
    found = {"axis": "commits", "points": points, "growth": report.growth(points)}
    assert report.beyond(found) == ["commit_ms"] and found["growth"]["commit_ms"] == pytest.approx(1)
    assert "grows" in report.table(found)
    assert report.beyond({**found, "axis": "dims"}) == []       # longer rows may cost more


def test_noise_of_little_things_is_no_growth() -> None:
    points = [{"at": at, "open_ms": value} for at, value in ((10, 0.1), (100, 0.5), (1_000, 0.9))]
    assert report.growth(points)["open_ms"] == 0


def test_an_unknown_axis_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        growth.main(["colours"])
    assert "colours" in capsys.readouterr().err
