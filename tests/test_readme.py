"""README: its python blocks run, its commands and tests exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from zstore.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:<!-- not run: (?P<why>[^>]*?) -->\n)?```python\n(?P<code>.*?)```", re.DOTALL)
GUIDE = (ROOT / "docs" / "record-your-training.md").read_text(encoding="utf-8")
BLOCKS = [pytest.param(m["code"], m["why"], id=f"block-{n}") for n, m in enumerate(BLOCK.finditer(README))]


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=folder, env=env, capture_output=True,
                          text=True, timeout=120)


@pytest.mark.parametrize(("code", "why"), BLOCKS)
def test_block_runs(code: str, why: str | None, tmp_path: Path) -> None:
    if why is not None:
        compile(code, "README.md", "exec")
        pytest.skip(f"not run: {why}")
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_example_writes_what_it_says(tmp_path: Path) -> None:
    code = BLOCKS[0].values[0]
    assert isinstance(code, str)
    checks = """
assert run.get("doc-17", epoch=2).shape == (32,)
assert run.get(["doc-17", "doc-3"], epoch=[0, 1, 2]).shape == (2, 3, 32)
assert len(last) == 1000 and last.vectors.shape == (1000, 32)
assert (last.field("label") == np.arange(1000) % 10).all()
assert (zarr.open_group("runs/a.zarr", mode="r")["vectors"][:5] == run[:5]).all()
"""
    done = run_python(code + checks, tmp_path)
    assert done.returncode == 0, done.stderr


def test_keeping_house_behind_the_example(tmp_path: Path) -> None:
    house = next(str(block.values[0]) for block in BLOCKS if "zstore.compact(" in str(block.values[0]))
    checks = """
assert (zstore.Reader("runs/a.zarr").find(["doc-17"]) == -1).all()
small = zstore.Reader("runs/a-small.zarr")
assert len(small) == 2997 and (small.find(["doc-17", "doc-3"]) >= 0).tolist() == [False, True]
"""
    quiet = "import warnings\nwarnings.simplefilter('ignore')\n"
    done = run_python(str(BLOCKS[0].values[0]) + quiet + house + checks, tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_guides_blocks_run_one_after_the_other(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    code = "\n".join(m["code"] for m in BLOCK.finditer(GUIDE) if m["why"] is None)
    checks = """
assert run.coverage([s["id"] for s in samples])[1].exact and last.field("loss").shape == (200,)
assert all(c.exact for c in zstore.Reader("runs/b.zarr").coverage([s["id"] for s in samples]).values())
assert len(zstore.Reader("runs/b.zarr")) == 600 and zstore.Reader("runs/kept.zarr").epochs.tolist() == [0, 1, 2]
assert zstore.Reader("runs/probe.zarr").field("label").shape == (50,) and vectors.shape == (50, 24)
assert nearest.shape == (200, 5)
"""
    # A resumed run says which rows it cut, aloud: it is to.
    quiet = "import warnings\nwarnings.filterwarnings('ignore', message='.*rolled back')\n"
    done = run_python(quiet + code + checks, tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_guides_three_lines_are_three_and_those_of_the_example() -> None:
    (diff,) = re.findall(r"```diff\n(.*?)```", GUIDE, re.DOTALL)
    added = [line[1:] for line in diff.splitlines() if line.startswith("+")]
    example = (ROOT / "examples" / "sentence_transformers_finetuning.py").read_text(encoding="utf-8")
    assert added == re.findall(r"^(.*?)  # zstore$", example, re.MULTILINE) and len(added) == 3


def test_the_readme_has_blocks_that_run() -> None:
    assert any(block.values[1] is None for block in BLOCKS)


def test_commands_named_exist() -> None:
    named = set(re.findall(r"^\$ zstore (\w+)|`zstore (\w+)", README, re.MULTILINE))
    words = {word for pair in named for word in pair if word}
    assert words and words <= set(COMMANDS)


def test_make_targets_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make (\w+) +#", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_tests_named_exist() -> None:
    """A promise is shown by a test, or it is no promise."""
    for name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", README):
        path = ROOT / name[0]
        assert path.exists(), name[0]
        assert not name[1] or f"def {name[1]}(" in path.read_text(encoding="utf-8"), name[1]
