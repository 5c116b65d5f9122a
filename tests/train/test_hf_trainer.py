"""attach() on the real Hugging Face Trainer: rows, neutrality, crashes and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for package in ("transformers", "datasets", "accelerate"):
    pytest.importorskip(package)
sys.path.insert(0, str(Path(__file__).parent))

import hf_runs as runs  # noqa: E402

import zstore  # noqa: E402
from zstore.train import Recorder, attach  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(torch|transformers|datasets|accelerate).*")
IDS = [f"s{n}" for n in range(runs.SAMPLES)]
ALL = sorted((epoch, name) for epoch in range(runs.EPOCHS) for name in IDS)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    return runs.tiny_encoder(tmp_path_factory.mktemp("hf") / "encoder", dropout=0.1)


def rows_of(url: str) -> dict[str, Any]:
    """Head's rows in the order of (epoch, id): what must be equal between two runs."""
    with zstore.Reader(url) as run:
        ids, epochs = run.ids.tolist(), run.field("epoch").tolist()
        order = sorted(range(len(ids)), key=lambda row: (epochs[row], ids[row]))
        return {"keys": [(epochs[row], ids[row]) for row in order], "steps": run.field("step")[order].tolist(),
                "vectors": np.asarray(run.vectors)[order].tobytes()}


def pooler(trainer: Any) -> Any:
    return trainer.model.bert.pooler


def record(trainer: Any, url: str, module: Any = "pooler", **how: Any) -> None:
    """Attach, train, close."""
    with Recorder(url) as recorder:
        attach(trainer, recorder, pooler(trainer) if isinstance(module, str) else module, **how)
        trainer.train()


class PlainData(torch.utils.data.Dataset):      # type: ignore[misc]
    """A data set that knows no columns."""

    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> Any:
        return self.samples[row]


CASES: dict[str, dict[str, Any]] = {
    "accumulation": {},
    "no accumulation": {"gradient_accumulation_steps": 1},
    "checkpointing": {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False}},
    "reentrant checkpointing": {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}},
    "bfloat16": {"bf16": True},
    "all columns": {"remove_unused_columns": False},
    "a loader's worker": {"dataloader_num_workers": 1},
    "plain data": {"dataset": "plain"},
    "plain data, all columns": {"dataset": "plain", "remove_unused_columns": False},
    "evaluation": {"eval_strategy": "steps", "eval_steps": 1, "eval_dataset": "same"},
}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")      # reentrant, of embeddings
@pytest.mark.parametrize("case", CASES)
def test_every_sample_once_an_epoch_as_a_plain_forward_gives_it(case: str, encoder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer
    more = dict(CASES[case])
    samples = runs.hf_samples(AutoTokenizer.from_pretrained(encoder))
    if more.get("dataset") == "plain":
        more["dataset"] = PlainData(samples)
    if more.get("eval_dataset") == "same":
        more["eval_dataset"] = PlainData(samples)
    trainer = runs.hf_trainer(tmp_path / "out", encoder, dropout=0.0, **{**more, "learning_rate": 0.0, "save_strategy": "no"})
    layer = trainer.model.bert.encoder.layer[-1]

    def first(output: Any) -> Any:
        return (output[0] if isinstance(output, tuple) else output)[:, 0]
    with warnings.catch_warnings(), Recorder(str(tmp_path / "run.zarr")) as recorder:
        recorder.watch(layer, field="cls", select=first)
        attach(trainer, recorder, trainer.model.bert.pooler)
        trainer.train()
    trainer.model.eval()
    with zstore.Reader(str(tmp_path / "run.zarr")) as run:
        keys = sorted(zip(run.field("epoch").tolist(), run.ids.tolist(), strict=True))
        assert keys == ALL
        steps = runs.EPOCHS * (6 if more.get("gradient_accumulation_steps") == 1 else 3)
        assert sorted(set(run.field("step").tolist())) == list(range(1, steps + 1))
        for number, sample in enumerate(samples):
            with torch.no_grad():
                outputs = trainer.model.bert(torch.tensor([sample["input_ids"]]))
            close = {"atol": 0.03 if case == "bfloat16" else 1e-6, "rtol": 0}
            for epoch in range(runs.EPOCHS):
                found = [np.asarray(run.get(IDS[number], epoch=epoch, field=field), np.float32) for field in ("vectors", "cls")]
                np.testing.assert_allclose(found[0], outputs.pooler_output[0], **close)
                np.testing.assert_allclose(found[1], outputs.last_hidden_state[0, 0], **close)


def test_recording_changes_no_bit_of_losses_and_weights(encoder: Path, tmp_path: Path) -> None:
    found = []
    os.symlink(encoder, tmp_path / "encoder")
    for name in ("without", "with"):
        folder = tmp_path / name
        folder.mkdir()
        weights = runs.train(folder, "hf", record=name == "with")
        found.append((weights, (folder / "losses.txt").read_text()))
    assert found[0] == found[1]
    assert found[0][1].count("\n") == 18


# -- crashes ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Callable[..., int]]:
    """Call it with what runs.train takes: a process that may be killed runs it. Gives the exit status, -9 when killed."""
    process = subprocess.Popen([sys.executable, "-W", "ignore", runs.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert process.stdin is not None and process.stdout is not None

    def attempt(folder: Path, **told: Any) -> int:
        print(json.dumps({"folder": str(folder), **told}), file=process.stdin, flush=True)
        return int(process.stdout.readline())
    yield attempt
    process.stdin.close()
    process.wait()
    process.stdout.close()


def losses_of(folder: Path) -> dict[str, set[str]]:
    """All losses that were ever seen for a batch: more than one where a resumed run did not repeat a bit."""
    found: dict[str, set[str]] = {}
    for line in (folder / "losses.txt").read_text().splitlines():
        place, loss = line.rsplit(" ", 1)
        found.setdefault(place, set()).add(loss)
    return found


KILLS: list[tuple[str, int]] = [
    ("training_step", 3),               # before the first checkpoint
    ("fsync", 4),                       # in a commit
    ("after:training_step", 5),         # behind checkpoint-2, and between two batches of one step
    ("_save_rng_state", 1),             # in a save: the folder has weights, and no trainer_state.json
    ("after:_save_checkpoint", 1),
    ("fsync", 9),
    ("compute_loss", 4),                # in mid-epoch
]


def crash_and_resume(kind: str, server: Callable[..., int], folder: Path, kills: list[tuple[str, int]]) -> int:
    """Attempts that die, one after the other, and a last one that does not. Gives how often the Trainer could not go on."""
    folder.mkdir()
    stuck = 0
    for kill in [*kills, None]:
        status = server(folder, kind=kind, kill=kill)
        if status == 1:                 # resume_from_checkpoint=True took a folder that a kill left half-written
            half = [path for path in (folder / "out").glob("checkpoint-*") if not (path / "trainer_state.json").exists()]
            assert half
            for path in half:
                shutil.rmtree(path)
            stuck += 1
            status = server(folder, kind=kind, kill=kill)
        assert status in ((-9, 0) if kill else (0,)), (kill, status)
    return stuck


def assert_as_never_stopped(kind: str, folder: Path, reference: Path) -> None:
    assert losses_of(folder) == losses_of(reference)
    assert all(len(seen) == 1 for seen in losses_of(folder).values())
    assert (folder / "digest.txt").read_text() == (reference / "digest.txt").read_text()
    assert rows_of(str(folder / "run.zarr")) == rows_of(str(reference / "run.zarr"))
    assert rows_of(str(reference / "run.zarr"))["keys"] == ALL
    assert zstore.verify(str(folder / "run.zarr")) == []


@pytest.mark.parametrize("kind", ["hf", "st"])
def test_killed_again_and_again_it_is_the_run_that_never_stopped(kind: str, encoder: Path, server: Callable[..., int],
                                                                tmp_path: Path) -> None:
    if kind == "st":
        pytest.importorskip("sentence_transformers")
    os.symlink(encoder, tmp_path / "encoder")
    (tmp_path / "whole").mkdir()
    assert server(tmp_path / "whole", kind=kind) == 0
    assert crash_and_resume(kind, server, tmp_path / "killed", KILLS) == 1
    assert_as_never_stopped(kind, tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hf", "st"])
def test_killed_by_chance(kind: str, encoder: Path, server: Callable[..., int], tmp_path: Path) -> None:
    if kind == "st":
        pytest.importorskip("sentence_transformers")
    os.symlink(encoder, tmp_path / "encoder")
    (tmp_path / "whole").mkdir()
    assert server(tmp_path / "whole", kind=kind) == 0
    chance = np.random.default_rng()
    for number in range(4):
        places = chance.choice(["training_step", "after:training_step", "compute_loss", "_save_checkpoint", "fsync"], 6)
        kills = [(str(place), int(chance.integers(1, 8))) for place in places]
        print(kills)        # to repeat a failure
        crash_and_resume(kind, server, tmp_path / f"chance {number}", kills)
        assert_as_never_stopped(kind, tmp_path / f"chance {number}", tmp_path / "whole")


def test_a_resume_that_skips_no_data_says_which_samples_came_twice(encoder: Path, tmp_path: Path) -> None:
    out, url = tmp_path / "out", str(tmp_path / "run.zarr")
    record(runs.hf_trainer(out, encoder, max_steps=4), url, expected=None)
    trainer = runs.hf_trainer(out, encoder, max_steps=9, ignore_data_skip=True)
    with pytest.warns(UserWarning, match="8 keys .* superseded"), \
            pytest.warns(UserWarning, match=r"epoch 1: 30 rows, 8 twice \(s"), Recorder(url) as recorder:
        attach(trainer, recorder, pooler(trainer))
        trainer.train(resume_from_checkpoint=str(out / "checkpoint-4"))


@pytest.mark.parametrize(("save_steps", "exact"), [(2, False), (3, True)])      # in mid-epoch, and at its end
def test_random_numbers_in_a_collator_are_restored_too_late_in_mid_epoch(save_steps: int, exact: bool, encoder: Path,
                                                                         tmp_path: Path) -> None:
    out, url, losses = tmp_path / "out", str(tmp_path / "run.zarr"), tmp_path / "losses.txt"

    def trainer() -> Any:
        made = runs.hf_trainer(out, encoder, save_steps=save_steps)
        collate = made.data_collator

        def masking(samples: Any) -> Any:
            batch = collate(samples)
            batch["input_ids"][torch.rand(batch["input_ids"].shape) < 0.3] = 4
            return batch
        made.data_collator = masking
        runs.note_losses(made, losses)
        return made
    record(trainer(), url)
    whole = rows_of(url)
    again = trainer()
    with Recorder(url) as recorder, pytest.warns(UserWarning, match="rolled back from version"):
        attach(again, recorder, pooler(again))
        again.train(resume_from_checkpoint=str(out / f"checkpoint-{save_steps}"))
    assert all(len(seen) == 1 for seen in losses_of(tmp_path).values()) == exact
    assert rows_of(url)["keys"] == whole["keys"] == ALL
    assert (rows_of(url) == whole) == exact


def test_a_checkpoint_without_a_mark_goes_by_the_rows_steps(encoder: Path, tmp_path: Path) -> None:
    out, url = tmp_path / "out", str(tmp_path / "run.zarr")
    record(runs.hf_trainer(out, encoder), url)
    whole = rows_of(url)
    path = out / "checkpoint-4" / "trainer_state.json"
    state = json.loads(path.read_text())
    assert state["stateful_callbacks"].pop("zstore")["version"] > 0
    path.write_text(json.dumps(state))
    trainer = runs.hf_trainer(out, encoder)
    with Recorder(url) as recorder:
        attach(trainer, recorder, pooler(trainer))
        with pytest.warns(UserWarning, match="holds no mark, so the rows' steps decide: 36 of 66 rows"), \
                pytest.warns(UserWarning, match="rolled back from version . to the rows of version"):
            trainer.train(resume_from_checkpoint=str(path.parent))
    assert rows_of(url) == whole


def test_the_best_model_and_rotation_roll_nothing_back(encoder: Path, tmp_path: Path) -> None:
    out, url = tmp_path / "out", str(tmp_path / "run.zarr")
    best = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best", "load_best_model_at_end": True,
            "metric_for_best_model": "loss", "save_total_limit": 1}

    def trainer() -> Any:
        from transformers import AutoTokenizer
        seen = PlainData(runs.hf_samples(AutoTokenizer.from_pretrained(encoder)))
        return runs.hf_trainer(out, encoder, eval_dataset=seen, **best)
    record(trainer(), url)
    whole = rows_of(url)
    assert whole["keys"] == ALL
    kept = list(out.glob("checkpoint-*"))
    assert len(kept) == 1
    state = json.loads((kept[0] / "trainer_state.json").read_text())
    with zstore.Reader(url, version=state["stateful_callbacks"]["zstore"]["version"]) as then:
        assert then.field("step").max() == state["global_step"]
    again = trainer()
    with Recorder(url) as recorder:
        attach(again, recorder, pooler(again))
        with (pytest.warns(UserWarning, match="rolled back from version") if state["global_step"] < 9 else nullcontext()):
            again.train(resume_from_checkpoint=True)
    assert rows_of(url) == whole


def test_a_checkpoint_in_the_middle_of_a_step_keeps_none_of_its_rows(encoder: Path, tmp_path: Path) -> None:
    from transformers import TrainerCallback
    out, url = tmp_path / "out", str(tmp_path / "run.zarr")
    trainer = runs.hf_trainer(out, encoder, save_strategy="no", max_steps=5)

    class OnSigterm(TrainerCallback):       # type: ignore[misc]
        """What enable_jit_checkpoint does, without the signal and the seconds that it waits."""

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 4:
                trainer._save_checkpoint(trainer.model, trial=None)
                control.should_training_stop = True
    trainer.add_callback(OnSigterm())
    record(trainer, url)
    assert len(rows_of(url)["keys"]) == 22 + 16
    again = runs.hf_trainer(out, encoder, save_strategy="no")
    with Recorder(url) as recorder:
        attach(again, recorder, pooler(again))
        with pytest.warns(UserWarning, match="holds no mark, so the rows' steps decide"), \
                pytest.warns(UserWarning, match="8 rows less: they are deleted"):
            again.train(resume_from_checkpoint=str(out / "checkpoint-4"))
    assert rows_of(url)["keys"] == ALL


# -- what else happens in a training ----------------------------------------------------------------------------------------


def test_a_training_that_stops_in_mid_epoch_misses_nothing(encoder: Path, tmp_path: Path) -> None:
    record(runs.hf_trainer(tmp_path / "out", encoder, max_steps=4), str(tmp_path / "run.zarr"))
    assert len(rows_of(str(tmp_path / "run.zarr"))["keys"]) == 22 + 8


def test_a_stream_that_ends_before_its_steps_begins_a_new_epoch(encoder: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer
    stream = Dataset.from_list(runs.hf_samples(AutoTokenizer.from_pretrained(encoder))).to_iterable_dataset()
    record(runs.hf_trainer(tmp_path / "out", encoder, stream, max_steps=8), str(tmp_path / "run.zarr"))
    found = rows_of(str(tmp_path / "run.zarr"))
    assert len(set(found["keys"])) == len(found["keys"])
    assert {epoch: sum(key[0] == epoch for key in found["keys"]) for epoch in (0, 1, 2)} == {0: 22, 1: 22, 2: 16}


@pytest.mark.parametrize(("at", "known", "epochs"), [
    (4, {0: 22, 1: 22, 2: 16}, ""),                         # in the first pass: nothing happened
    (8, {0: 22, 1: 8, 2: 22, 3: 8}, "epoch 1 stays as far as it came, and the next pass is epoch 2"),
    (15, {0: 22, 1: 22, 2: 12, 3: 4}, "")])                 # done; the Trainer takes one more step
def test_a_stream_that_is_resumed_gives_no_key_twice(at: int, known: dict[int, int], epochs: str, encoder: Path,
                                                     tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer
    stream = Dataset.from_list(runs.hf_samples(AutoTokenizer.from_pretrained(encoder))).to_iterable_dataset()
    out, url = tmp_path / "out", str(tmp_path / "run.zarr")

    def trainer(**more: Any) -> Any:
        return runs.hf_trainer(out, encoder, stream, **{"max_steps": 16, "gradient_accumulation_steps": 1, "save_steps": 1,
                                                        **more})
    record(trainer(max_steps=15) if at == 15 else trainer(), url)
    again = trainer(max_steps=15) if at == 15 else trainer()
    with Recorder(url) as recorder, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        attach(again, recorder, pooler(again))
        again.train(resume_from_checkpoint=str(out / f"checkpoint-{at}"))
    found = [str(warning.message) for warning in told if "the training data has no length" in str(warning.message)]
    assert len(found) == bool(epochs) and all(epochs in text for text in found)
    keys = rows_of(url)["keys"]
    assert len(set(keys)) == len(keys)
    assert {epoch: sum(key[0] == epoch for key in keys) for epoch in {key[0] for key in keys}} == known
    if epochs:          # and again, in a pass that the Trainer of that process counts as its second
        third = trainer(max_steps=20)
        with Recorder(url) as recorder, pytest.warns(UserWarning, match="epoch 2 stays .* the next pass is epoch 3"), \
                pytest.warns(UserWarning, match="rolled back"):
            attach(third, recorder, pooler(third))
            third.train(resume_from_checkpoint=str(out / "checkpoint-12"))
        keys = rows_of(url)["keys"]
        assert len(set(keys)) == len(keys) and {epoch for epoch, _ in keys} == {0, 1, 2, 3, 4}


def test_other_names_numbers_as_ids_and_rows_that_are_counted(encoder: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer
    samples = runs.hf_samples(AutoTokenizer.from_pretrained(encoder))
    for number, sample in enumerate(samples):
        sample["idx"] = 100 + number
    data = Dataset.from_list(samples)
    record(runs.hf_trainer(tmp_path / "a", encoder, data, max_steps=3), str(tmp_path / "a.zarr"), ids="idx")
    assert [name for _, name in rows_of(str(tmp_path / "a.zarr"))["keys"]] == list(range(100, 122))
    record(runs.hf_trainer(tmp_path / "b", encoder, data.with_format("torch"), max_steps=3), str(tmp_path / "b.zarr"), ids=None)
    assert [name for _, name in rows_of(str(tmp_path / "b.zarr"))["keys"]] == list(range(22))


def test_a_loss_that_goes_nan_is_told_once_and_trains_on(encoder: Path, tmp_path: Path) -> None:
    trainer = runs.hf_trainer(tmp_path / "out", encoder, learning_rate=1e30, max_grad_norm=0.0, save_strategy="no")
    with pytest.warns(UserWarning, match="NaN") as told:
        record(trainer, str(tmp_path / "run.zarr"))
    assert trainer.state.global_step == 9
    assert rows_of(str(tmp_path / "run.zarr"))["keys"] == ALL
    assert len([warning for warning in told if "NaN" in str(warning.message)]) == 1


# -- what it says -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("more", "how", "says"), [
    ({}, {"ids": "idx"}, "no 'idx': name the one that holds"),
    ({}, {"module": None}, r"which part of BertForSequenceClassification gives the embeddings\? .*module=model.bert.pooler"),
    ({"auto_find_batch_size": True}, {}, "auto_find_batch_size=False"),
    ({"dataset": "list"}, {"ids": None}, "numbers the rows of a datasets.Dataset, and the training data is a PlainData"),
    ({"dataset": "list"}, {}, "samples reach the collator with 'input_ids', 'labels' and without 'id'"),
    ({"dataset": "stripped"}, {}, r"without 'id'.* set_format\(columns=...\)"),
    ({}, {"module": "embeddings"}, "gave 1 vectors in this batch, and there are 4 ids"),
])
def test_one_clear_message(more: dict[str, Any], how: dict[str, Any], says: str, encoder: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer
    samples = runs.hf_samples(AutoTokenizer.from_pretrained(encoder))
    if more.get("dataset") == "list":
        more = {"dataset": PlainData([{k: v for k, v in sample.items() if k != "id"} for sample in samples])}
    elif more.get("dataset") == "stripped":
        more = {"dataset": Dataset.from_list(samples).with_format(None, columns=["input_ids", "labels"])}
    trainer = runs.hf_trainer(tmp_path / "out", encoder, **more)
    before = runs.digest(trainer.model)
    if how.get("module") == "embeddings":
        how = {"module": trainer.model.classifier, "select": lambda output: output[:1]}
    with pytest.raises((ValueError, TypeError), match=says):
        record(trainer, str(tmp_path / "run.zarr"), **how)
    assert runs.digest(trainer.model) == before
    assert not (tmp_path / "run.zarr").exists()


class OwnLoader:
    """Beside Trainer: a loader with a collator of its own."""

    def get_train_dataloader(self: Any) -> Any:
        return torch.utils.data.DataLoader(self.train_dataset, batch_size=4, collate_fn=lambda samples: self.batch(
            {"input_ids": torch.tensor([sample["input_ids"][:3] for sample in samples]),
             "labels": torch.tensor([sample["labels"] for sample in samples])}))


@pytest.mark.parametrize(("batch", "says"), [
    (lambda batch: batch, r"batch \(input_ids, labels\) comes without ids, .*build it with collate_fn=self.data_collator"),
    (lambda batch: (batch["input_ids"], batch["labels"]), "the collator gives a (tuple|list), which has no place for ids"),
])
def test_a_loader_of_ones_own_has_to_use_the_trainers_collator(batch: Any, says: str, encoder: Path, tmp_path: Path) -> None:
    trainer = runs.hf_trainer(tmp_path / "out", encoder, save_strategy="no", max_steps=3)
    plain = type(trainer)
    trainer.__class__ = type("Own", (OwnLoader, plain), {})
    trainer.batch = batch
    with pytest.raises(ValueError, match=says):
        record(trainer, str(tmp_path / "run.zarr"))
    again = runs.hf_trainer(tmp_path / "out", encoder, save_strategy="no", max_steps=3)
    again.__class__ = type("Own", (plain,), {"get_train_dataloader": lambda self: torch.utils.data.DataLoader(
        self.train_dataset, batch_size=4, collate_fn=self.data_collator)})
    record(again, str(tmp_path / "run.zarr"))
    assert len(rows_of(str(tmp_path / "run.zarr"))["keys"]) == 22


@pytest.mark.parametrize(("expected", "says"), [(runs.SAMPLES, "this store's ids are strings: pass the ids themselves"),
                                                ([1, 2], "ids are strings and the id 1 is an integer")])
def test_what_is_expected_is_looked_at_before_the_first_row(expected: Any, says: str, encoder: Path, tmp_path: Path) -> None:
    trainer = runs.hf_trainer(tmp_path / "out", encoder)
    with pytest.raises(ValueError, match=says):
        record(trainer, str(tmp_path / "run.zarr"), expected=expected)
    assert trainer.state.global_step == 0 and not (tmp_path / "run.zarr").exists()


@pytest.mark.parametrize("at", [2, 9])      # in the middle, and when all is done
def test_a_store_that_is_gone_is_told_before_the_first_step(at: int, encoder: Path, tmp_path: Path) -> None:
    out, url = tmp_path / "out", str(tmp_path / "run.zarr")
    record(runs.hf_trainer(out, encoder, save_steps=1), url)
    shutil.rmtree(url)
    trainer = runs.hf_trainer(out, encoder)
    with Recorder(url) as recorder:
        assert attach(trainer, recorder, pooler(trainer)) is recorder
        with pytest.raises(zstore.errors.BehindCheckpoint, match=r"names version \d+ \(commit \w+\), but there is no store"):
            trainer.train(resume_from_checkpoint=str(out / f"checkpoint-{at}"))
    assert trainer.state.global_step == at and not Path(url).exists()


def test_predicting_gives_no_row_and_the_model_no_ids(encoder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer
    trainer = runs.hf_trainer(tmp_path / "out", encoder, max_steps=3, save_strategy="no")
    record(trainer, str(tmp_path / "run.zarr"))
    unlabelled = [{k: v for k, v in sample.items() if k != "labels"}
                  for sample in runs.hf_samples(AutoTokenizer.from_pretrained(encoder))]
    assert trainer.predict(PlainData(unlabelled)).predictions.shape == (runs.SAMPLES, 2)
    batch = next(iter(trainer.get_eval_dataloader(PlainData(runs.hf_samples(AutoTokenizer.from_pretrained(encoder))))))
    assert float(trainer.compute_loss(trainer.model.train(), batch).detach()) > 0       # by hand, when nothing trains
    assert len(rows_of(str(tmp_path / "run.zarr"))["keys"]) == 22


def test_transformers_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "zstore.train.hf_callback", raising=False)
    with pytest.raises(zstore.errors.MissingExtra, match=r"pip install 'zstore\[hf\]'"):
        import_module("zstore.train.hf_callback")


def test_a_second_train_wants_a_new_recorder(encoder: Path, tmp_path: Path) -> None:
    trainer = runs.hf_trainer(tmp_path / "out", encoder, max_steps=3)
    with Recorder(str(tmp_path / "a.zarr")) as recorder:
        attach(trainer, recorder, pooler(trainer))
        trainer.train()
        with pytest.raises(ValueError, match=r"attach\(trainer, Recorder\(...\)\) anew"):
            trainer.train()
        for again in (trainer, runs.hf_trainer(tmp_path / "other", encoder, max_steps=3)):
            attach(again, recorder)
            with pytest.raises(ValueError, match="this recorder has seen a training begin already"):
                again.train()
    record(trainer, str(tmp_path / "b.zarr"))
    assert len(rows_of(str(tmp_path / "a.zarr"))["keys"]) == len(rows_of(str(tmp_path / "b.zarr"))["keys"]) == 22


def test_a_model_that_is_built_when_training_begins_is_refused(encoder: Path, tmp_path: Path) -> None:
    trainer = runs.hf_trainer(tmp_path / "out", encoder)
    trainer.model_init = lambda: trainer.model
    with Recorder(str(tmp_path / "a.zarr")) as recorder, pytest.raises(ValueError, match="model_init builds another model"):
        attach(trainer, recorder, pooler(trainer))


def test_the_trainers_own_parts_stay_as_they_were(encoder: Path, tmp_path: Path) -> None:
    trainer = runs.hf_trainer(tmp_path / "out", encoder, max_steps=1, save_strategy="no")
    collator = trainer.data_collator
    record(trainer, str(tmp_path / "a.zarr"))
    assert trainer.data_collator is collator
    assert "id" not in trainer._signature_columns
