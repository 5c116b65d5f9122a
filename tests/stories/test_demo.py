"""The main job: `zstore demo` trains on real data, is killed, resumes, and says only what is so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
datasets = pytest.importorskip("sklearn.datasets")

ROOT = Path(__file__).parents[2]
EPOCHS = 4


def demo(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", "zstore.cli.main", "demo", *words], cwd=cwd, env=env,
                          capture_output=True, text=True, timeout=180)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("demo")
    done = demo("--dir", "out", "--epochs", str(EPOCHS), "--keep", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "out", json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def rows(told: tuple[Path, dict[str, Any], str]) -> dict[str, Any]:
    """What zarr finds at the extents, with no zstore."""
    group = zarr.open_group(told[0] / "run.zarr", mode="r")
    extents = group.attrs["zstore"]["extents"]    # type: ignore[index, call-overload]
    return {name: np.concatenate([np.asarray(array[start:start + count]) for start, count in extents])
            for name, array in group.arrays()}


def test_no_row_is_lost_or_doubled(told: tuple[Path, dict[str, Any], str], rows: dict[str, Any]) -> None:
    target = datasets.load_digits().target
    keys = sorted(zip(rows["ids"].tolist(), rows["epoch"].tolist(), strict=True))
    assert keys == sorted((f"digit-{n:04d}", e) for n in range(len(target)) for e in range(EPOCHS))
    numbers = [int(name.removeprefix("digit-")) for name in rows["ids"].tolist()]
    assert (rows["label"] == target[numbers]).all()
    assert told[1]["rows"] == told[1]["report"]["rows"] == len(keys)


def test_it_was_killed_past_its_checkpoint(told: tuple[Path, dict[str, Any], str]) -> None:
    killed = told[1]["killed"]
    assert killed["checkpoint"]["version"] < killed["committed"]["version"] <= killed["left"]["version"]
    assert killed["left"]["rows"] >= killed["committed"]["rows"]
    assert 0 < killed["committed"]["rows"] < told[1]["rows"]


def test_the_rows_are_those_of_the_uninterrupted_run(told: tuple[Path, dict[str, Any], str],
                                                     rows: dict[str, Any]) -> None:
    group = zarr.open_group(told[0] / "uninterrupted.zarr", mode="r")
    for name, array in group.arrays():
        expected = np.asarray(array[:])
        assert expected.dtype == rows[name].dtype
        assert (expected == rows[name]).all(), name


def test_the_printed_accuracy_is_that_of_the_stored_vectors(told: tuple[Path, dict[str, Any], str],
                                                            rows: dict[str, Any]) -> None:
    for epoch, told_accuracy in told[1]["report"]["accuracy"].items():
        here = rows["epoch"] == int(epoch)
        vectors, labels = rows["vectors"][here].astype(np.float64), rows["label"][here]
        distance = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=2)
        np.fill_diagonal(distance, np.inf)
        assert np.mean(labels[distance.argmin(axis=1)] == labels) == pytest.approx(told_accuracy, abs=0.002)
    accuracy = [told[1]["report"]["accuracy"][str(epoch)] for epoch in range(EPOCHS)]
    assert accuracy[-1] > accuracy[0] and accuracy[-1] > 0.9


def test_it_narrates_and_draws(told: tuple[Path, dict[str, Any], str]) -> None:
    folder, facts, text = told
    for words in ("kill -9", "none lost, none doubled", "bit for bit", "recording cost", "opened in", "size on disk",
                  "nearest-neighbour accuracy", f"the path of {facts['report']['sample']}"):
        assert words in text
    picture = Path(facts["report"]["picture"])
    assert str(picture) in text
    data = (folder / picture.name).read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) > 50_000


def test_a_second_demo_replaces_the_first_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    done = demo("--dir", "mine", cwd=tmp_path)
    assert done.returncode == 5 and "--dir" in done.stderr and "Traceback" not in done.stderr
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_too_few_epochs_is_a_usage_error(tmp_path: Path) -> None:
    done = demo("--epochs", "2", cwd=tmp_path)
    assert done.returncode == 2 and "3 epochs or more" in done.stderr
    assert not list(tmp_path.iterdir())
