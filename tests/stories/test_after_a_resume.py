"""Story 7: a run is killed, comes back at its checkpoint's mark, and goes on. Everybody sees the same rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import zstore

ROOT = Path(__file__).parents[2]
DIM, SAMPLES = 24, 50

# Trains for ever; prints its checkpoint's mark after epoch 1; is killed in the middle of a later one.
TRAINING = """
    import json, sys
    import numpy as np
    import zstore
    url, codec, ids = sys.argv[1:]
    writer = zstore.Writer(url, codec=codec, commit_every_s=None, rows_per_shard=64)
    for epoch in range(10**6):
        for batch in range(5):
            rows = np.arange(batch * 10, batch * 10 + 10)
            names = [f"s{i}" for i in rows] if ids == "str" else rows
            vectors = (rows[:, None] + 1000 * epoch + np.zeros(24)).astype(np.float32)
            writer.append(names, vectors, epoch=epoch, label=rows % 7)
            if epoch >= 2 and batch == 2:
                writer.commit()
        if epoch == 1:
            print(json.dumps(writer.state_dict()), flush=True)
        if epoch == 4:
            print("far", flush=True)
            sys.stdin.readline()
"""


def killed(url: Path, codec: str, ids: str) -> dict[str, Any]:
    """The mark of epoch 1, of a run that was killed at epoch 4."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(TRAINING), str(url), codec, ids], env=env, text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        mark = json.loads(child.stdout.readline())
        assert child.stdout.readline() == "far\n"
    finally:
        child.kill()
        child.communicate(timeout=60)
    assert child.returncode == -9
    return dict(mark)


def resumed(url: Path, mark: dict[str, Any], ids: str) -> None:
    """What the same script does when it is started again: the store at the mark, then epochs 2 and 3."""
    with pytest.warns(UserWarning, match="rolled back"), \
            zstore.Writer(url, commit_every_s=None, at=mark) as writer:
        for epoch in (2, 3):
            rows = np.arange(SAMPLES)
            writer.append([f"s{i}" for i in rows] if ids == "str" else rows,
                          (rows[:, None] + 1000 * epoch + np.zeros(DIM)).astype(np.float32), epoch=epoch, label=rows % 7)
            writer.commit()


@pytest.fixture(params=[("raw", "int"), ("lossless", "str"), ("small", "int")], ids=lambda p: "-".join(p))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str, str]:
    codec, ids = request.param
    url = tmp_path / "run.zarr"
    mark = killed(url, codec, ids)
    with zstore.Reader(url) as before:
        assert len(before) > 2 * SAMPLES                # rows of the dead run are there to be cut
    resumed(url, mark, ids)
    return url, codec, ids


def at_extents(url: Path, array: Any) -> np.ndarray[Any, Any]:
    """What a foreign reader has at the extents that the root's attribute lists."""
    extents = json.loads((url / "zarr.json").read_bytes())["attributes"]["zstore"]["extents"]
    assert len(extents) > 1                             # a rollback leaves a hole
    return np.concatenate([np.asarray(array[start:start + count]) for start, count in extents])


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_every_reader_sees_the_run_that_was_never_interrupted(store: tuple[Path, str, str]) -> None:
    url, _, ids = store
    with zstore.Reader(url) as reader:
        assert len(reader) == 4 * SAMPLES
        assert reader.ids.tolist() == [f"s{i}" if ids == "str" else i for _ in range(4) for i in range(SAMPLES)]
        assert reader.vectors[:, 0].tolist() == [1000 * e + i for e in range(4) for i in range(SAMPLES)]
        assert reader.field("epoch").tolist() == [e for e in range(4) for _ in range(SAMPLES)]
        assert reader.epochs.tolist() == [0, 1, 2, 3]
        assert len(reader.latest()) == SAMPLES
        ours = {"vectors": np.asarray(reader.vectors), "epoch": reader.field("epoch"), "label": reader.field("label"),
                "ids": reader.ids}

    group = zarr.open_group(str(url), mode="r")
    for name, rows in ours.items():
        assert np.array_equal(at_extents(url, group[name]).astype(rows.dtype), rows), name

    tensorstore = pytest.importorskip("tensorstore")
    for name, rows in ours.items():
        if name == "ids" and ids == "str":
            continue                                    # TensorStore has no strings; FORMAT.md says so
        array = tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(url / name)}}).result()
        assert np.array_equal(at_extents(url, array.read().result()), rows), name

    xarray = pytest.importorskip("xarray")
    with xarray.open_zarr(str(url), mask_and_scale=False) as dataset:
        assert dataset["vectors"].dims == ("row", "dim")
        for name, rows in ours.items():
            assert np.array_equal(at_extents(url, dataset[name].values).astype(rows.dtype), rows), name


def test_what_was_cut_stays_readable_and_the_store_is_sound(store: tuple[Path, str, str]) -> None:
    url, _, _ = store
    commits = zstore.history(url)
    cut = [commit for commit in commits if commit.opens and commit.version]
    assert len(cut) == 1
    before = zstore.Reader(url, version=cut[0].version - 1)
    assert before.epochs.tolist()[-1] == 4
    assert len(before) > 2 * SAMPLES
    assert len(zstore.Reader(url, version=cut[0].version)) == 2 * SAMPLES
    assert zstore.verify(url) == []
