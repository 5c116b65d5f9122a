"""Lightning's own Trainer, with and without a recorder, killed and resumed."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pl = pytest.importorskip("lightning.pytorch")

from lightning.pytorch.callbacks import Callback, ModelCheckpoint  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

import zstore  # noqa: E402
from zstore.train import Recorder, ResumableSampler  # noqa: E402
from zstore.train.lightning import ExactResume, PredictionWriter, RecorderCallback  # noqa: E402

ROOT = Path(__file__).parents[2]
SAMPLES, BATCH = 24, 4
IDS = [f"s{n}" for n in range(SAMPLES)]
LAYERS = {"vectors": "encoder", "logits": "head"}

pytestmark = [
    # Lightning's advice on speed, and torch's on an API that Lightning uses.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    # It looks at the loader, and does not know of the sampler's place.
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch"),
]


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Samples(Dataset):     # type: ignore[type-arg]
    """Each with its id; with ``noise``, a random augmentation from the global generator."""

    def __init__(self, noise: bool = False) -> None:
        self.noise = noise
        self.x = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(5))

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, n: int) -> dict[str, Any]:
        x = self.x[n] + 0.1 * torch.randn(4) if self.noise else self.x[n]
        return {"id": IDS[n], "x": x, "label": n % 3}


class Model(pl.LightningModule):    # type: ignore[misc]
    """An encoder with dropout, and a head. Keeps what the encoder gave, and each loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(8, 3)
        self.seen: dict[tuple[str, int], Any] = {}
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        hidden = self.encoder(batch["x"])
        for name, row in zip(batch["id"], hidden.detach().clone(), strict=True):
            self.seen[name, self.current_epoch] = row
        loss = nn.functional.cross_entropy(self.head(hidden), batch["label"])
        self.losses.append(loss.item())
        return loss

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.encoder(batch["x"])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class Validated(Model):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.head(self.encoder(batch["x"]))

    test_step = validation_step


def trainer(*callbacks: Any, **options: Any) -> Any:
    options = {"max_epochs": 2, "num_sanity_val_steps": 0, **options}
    return pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
                      enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
                      callbacks=list(callbacks), **options)


def loader(**options: Any) -> Any:
    return DataLoader(Samples(), batch_size=BATCH, **options)


def rows_of(url: Any, *fields: str) -> dict[tuple[str, int], tuple[Any, ...]]:
    """What a store holds, by (id, epoch): step, and the bytes of vectors and ``fields``. Each key must be there once."""
    with zstore.Reader(url) as run:
        columns = [[row.tobytes() for row in np.asarray(run.field(name))] for name in ("vectors", *fields)]
        keys = list(zip(map(str, run.ids), map(int, run.field("epoch")), strict=True))
        rows = dict(zip(keys, zip(map(int, run.field("step")), *columns, strict=True), strict=True))
    assert len(rows) == len(keys)
    return rows


# -- rows -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_rows_under_accumulation_validation_in_the_middle_and_autocast(tmp_path: Path, precision: Any) -> None:
    model, url = Validated(), tmp_path / "a.zarr"
    callback = RecorderCallback(url, LAYERS, ids="id", fields={"label": "label"}, expected=IDS)
    trainer(callback, precision=precision, accumulate_grad_batches=4, val_check_interval=2, num_sanity_val_steps=2).fit(
        model, loader(shuffle=True), loader())
    with zstore.Reader(url) as run:
        assert len(run) == 2 * SAMPLES and run.epochs.tolist() == [0, 1]
        # Six batches, a step after the fourth, and one at the epoch's end.
        assert run.field("step").tolist() == np.repeat([0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3], BATCH).tolist()
        assert run.field("label").tolist() == [int(name[1:]) % 3 for name in run.ids]
        assert run.field("logits").shape == (2 * SAMPLES, 3)
        assert str(run.vectors.dtype) == ("bfloat16" if precision == "bf16-mixed" else "float32")
        for name, epoch, row in zip(run.ids, run.field("epoch"), run.vectors, strict=True):
            assert row.astype(np.float32).tobytes() == model.seen[name, epoch].float().numpy().tobytes()
    assert callback.coverage[1].exact and callback.recorder is None


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_recording_changes_no_bit(tmp_path: Path, precision: Any) -> None:
    def train(*callbacks: Any) -> Any:
        pl.seed_everything(1, verbose=False)
        model = Validated()
        trainer(*callbacks, precision=precision, accumulate_grad_batches=2, val_check_interval=2, num_sanity_val_steps=1).fit(
            model, DataLoader(Samples(noise=True), batch_size=BATCH, shuffle=True), loader())
        return model
    without = train()
    recorded = train(RecorderCallback(tmp_path / "a.zarr", LAYERS, ids="id", expected=IDS),
                     ModelCheckpoint(tmp_path, every_n_train_steps=2))
    assert without.losses == recorded.losses
    for name, value in without.state_dict().items():
        assert value.numpy().tobytes() == recorded.state_dict()[name].numpy().tobytes()


def test_validation_and_test_leave_rows_only_when_asked(tmp_path: Path) -> None:
    stages: list[Any] = ["train", "validate", "test"]
    asked = [RecorderCallback(tmp_path / f"{stage}.zarr", "encoder", ids="id", stage=stage) for stage in stages]
    run, model = trainer(*asked, max_epochs=1, num_sanity_val_steps=2), Validated()
    run.fit(model, loader(), loader())
    with torch.no_grad():
        model.eval()
        plain = model.encoder(Samples().x).numpy()
    assert not (tmp_path / "test.zarr").exists()
    run.test(model, loader(), verbose=False)
    for stage in ("validate", "test"):
        with zstore.Reader(tmp_path / f"{stage}.zarr") as stored:
            assert list(stored.ids) == IDS
            np.testing.assert_allclose(stored.vectors, plain, rtol=1e-6)
    with zstore.Reader(tmp_path / "train.zarr") as stored:
        assert len(stored) == SAMPLES


def test_a_recorder_of_ones_own_stays_open_and_serves_two_fits(tmp_path: Path) -> None:
    model = Model()
    with Recorder(tmp_path / "a.zarr") as recorder:
        recorder.watch(model.encoder)
        recorder.watch(model.head, field="logits")
        callback = RecorderCallback(recorder, ids="id")
        run = trainer(callback, max_epochs=1)
        run.fit(model, loader())
        run.fit_loop.max_epochs = 2
        run.fit(model, loader())
    assert len(rows_of(tmp_path / "a.zarr")) == 2 * SAMPLES


def test_a_second_fit_goes_on_behind_the_first(tmp_path: Path) -> None:
    model = Model()
    run = trainer(RecorderCallback(tmp_path / "a.zarr", "encoder", ids="id"), max_epochs=1)
    run.fit(model, loader())
    run.fit_loop.max_epochs = 2
    run.fit(model, loader())
    assert len(rows_of(tmp_path / "a.zarr")) == 2 * SAMPLES


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_skipped_batches_leave_no_row(tmp_path: Path) -> None:
    class Skips(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx == 1 else super().training_step(batch, batch_idx)

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
            return -1 if batch_idx == 4 else None

    with pytest.warns(UserWarning, match=r"12 missing \(s"):
        trainer(RecorderCallback(tmp_path / "a.zarr", "encoder", ids="id", expected=IDS), max_epochs=1).fit(Skips(), loader())
    assert {name for name, _ in rows_of(tmp_path / "a.zarr")} == {*IDS[:4], *IDS[8:16]}


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_skipped_batch_in_which_another_callback_saves(tmp_path: Path) -> None:
    class Skips(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx == 1 else super().training_step(batch, batch_idx)

    class Early(Callback):      # type: ignore[misc]
        def on_train_batch_end(self, run: Any, *rest: Any) -> None:
            run.save_checkpoint(tmp_path / "early.ckpt")

    trainer(Early(), RecorderCallback(tmp_path / "a.zarr", "encoder", ids="id"), max_epochs=1).fit(Skips(), loader())
    assert {name for name, _ in rows_of(tmp_path / "a.zarr")} == {*IDS[:4], *IDS[8:]}


def test_a_validation_step_may_give_a_tensor(tmp_path: Path) -> None:
    class Gives(Model):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            return self.encoder(batch["x"])

        test_step = validation_step

    validated, tested = (RecorderCallback(tmp_path / f"{stage}.zarr", "encoder", ids="id", stage=stage)     # type: ignore[arg-type]
                         for stage in ("validate", "test"))
    run, model = trainer(validated, tested, max_epochs=1), Gives()
    run.fit(model, loader(), loader())
    run.test(model, loader(), verbose=False)
    assert len(rows_of(tmp_path / "validate.zarr")) == len(rows_of(tmp_path / "test.zarr")) == SAMPLES


def test_the_model_has_no_hook_outside_a_fit_and_may_be_another_one(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.zarr") as recorder:
        run = trainer(RecorderCallback(recorder, LAYERS, ids="id"), max_epochs=1)
        for epochs in (1, 2, 3):
            run.fit_loop.max_epochs = epochs
            model = Model()
            run.fit(model, loader())
            assert not model.encoder._forward_hooks and not model.head._forward_hooks
    rows = rows_of(tmp_path / "a.zarr")
    assert len(rows) == 3 * SAMPLES
    for name, row in model.seen.items():
        assert rows[name][1] == row.numpy().tobytes()


def test_a_module_that_is_made_for_the_fit_is_the_one_that_is_watched(tmp_path: Path) -> None:
    class Late(Model):
        def configure_model(self) -> None:
            self.encoder = nn.Sequential(nn.Linear(4, 8), nn.ReLU())

    trainer(RecorderCallback(tmp_path / "a.zarr", "encoder", ids="id"), max_epochs=1).fit(Late(), loader())
    assert len(rows_of(tmp_path / "a.zarr")) == SAMPLES


class Stops(Callback):      # type: ignore[misc]
    """An error, once, at the end of a batch."""

    def __init__(self, batch: int) -> None:
        self.batch: int | None = batch

    def on_train_batch_start(self, run: Any, model: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.batch:
            self.batch = None
            raise RuntimeError("stopped")


def test_a_fit_that_failed_before_its_first_row_has_not_begun(tmp_path: Path) -> None:
    url = tmp_path / "a.zarr"
    trainer(RecorderCallback(url, "encoder", ids="id"), max_epochs=1).fit(Model(), loader())
    callback = RecorderCallback(url, "encoder", ids="id")
    run = trainer(Stops(0), callback, max_epochs=1)
    with pytest.raises(RuntimeError, match="stopped"):
        run.fit(Model(), loader())
    with pytest.warns(UserWarning, match="24 rows are cut"):
        trainer(callback, max_epochs=1).fit(Model(), loader())
    assert len(rows_of(url)) == SAMPLES


def test_a_resumed_fit_with_nothing_left_keeps_the_rows_for_the_next_fit(tmp_path: Path) -> None:
    url, last = tmp_path / "a.zarr", tmp_path / "last.ckpt"
    run = trainer(RecorderCallback(url, "encoder", ids="id"), max_epochs=1)
    run.fit(Model(), loader())
    run.save_checkpoint(last)
    run, model = trainer(RecorderCallback(url, "encoder", ids="id"), max_epochs=1), Model()
    run.fit(model, loader(), ckpt_path=last)
    run.fit_loop.max_epochs = 2
    run.fit(model, loader())
    assert len(rows_of(url)) == 2 * SAMPLES


# -- mistakes ---------------------------------------------------------------------------------------------------------

def test_an_id_that_the_batch_lacks_names_the_setting_and_the_fix(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(ids=...\): the batch has no 'sample' \(it has id, x, label\); let the dataset"):
        trainer(RecorderCallback(tmp_path / "a.zarr", "encoder", ids="sample")).fit(Model(), loader())
    assert not (tmp_path / "a.zarr").exists()


def test_a_submodule_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Model has no submodule 'encodr'; it has encoder, head"):
        trainer(RecorderCallback(tmp_path / "a.zarr", "encodr", ids="id")).fit(Model(), loader())
    with pytest.raises(ValueError, match="name the submodule"):
        RecorderCallback(tmp_path / "a.zarr", ids="id")
    with pytest.raises(ValueError, match="stage must be one of"):
        RecorderCallback(tmp_path / "a.zarr", "encoder", ids="id", stage="predict")     # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("manual", [True, False])
def test_a_module_that_never_runs_is_told(tmp_path: Path, manual: bool) -> None:
    class Spare(Validated):
        def __init__(self) -> None:
            super().__init__()
            self.spare, self.automatic_optimization = nn.Linear(2, 2), not manual

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            if manual:
                self.manual_backward(loss)
                self.optimizers().step()

    url = tmp_path / "a.zarr"
    with pytest.warns(UserWarning, match=r"Spare\.spare never ran in the 6 batches of epoch 0, .* name a submodule that"):
        trainer(RecorderCallback(url, "spare", ids="id"), max_epochs=1).fit(Spare(), loader(), loader())
    with pytest.raises(RuntimeError, match=r"Spare\.spare did not run"):
        trainer(RecorderCallback(url, "spare", ids="id", stage="validate")).fit(Spare(), loader(), loader())
    with pytest.raises(RuntimeError, match=r"Model\.spare did not run"):
        model = Model()
        model.spare = nn.Linear(2, 2)
        trainer(RecorderCallback(url, "spare", ids="id")).fit(model, loader())
    assert not url.exists()


def test_each_trainer_wants_its_own_callback(tmp_path: Path) -> None:
    url = tmp_path / "a.zarr"
    with Recorder(tmp_path / "own.zarr") as recorder:
        for store in (url, recorder):
            callback = RecorderCallback(store, "encoder", ids="id")
            trainer(callback, max_epochs=1).fit(Model(), loader())
            with pytest.raises(ValueError, match=r"has recorded for another Trainer, .* give each Trainer a Rec"):
                trainer(callback, max_epochs=1).fit(Model(), loader())
    assert len(rows_of(url)) == len(rows_of(tmp_path / "own.zarr")) == SAMPLES


@pytest.mark.filterwarnings("ignore")       # Lightning's and torch's, in the forked processes
def test_several_processes_are_refused(tmp_path: Path) -> None:
    run = trainer(RecorderCallback(tmp_path / "a.zarr", "encoder", ids="id"), devices=2, strategy="ddp_fork")
    with pytest.raises(Exception, match=r"ValueError: zstore records one process .*, and this Trainer has 2: Trainer\("):
        run.fit(Model(), loader())
    with pytest.raises(ValueError, match="this Trainer has 2"):
        PredictionWriter(tmp_path / "a.zarr").setup(run, Model(), "predict")
    assert not (tmp_path / "a.zarr").exists()


def test_an_exception_commits_what_was_recorded(tmp_path: Path) -> None:
    class Breaks(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            if batch_idx == 3:
                raise RuntimeError("the loss is NaN")
            return loss

    callback = RecorderCallback(tmp_path / "a.zarr", "encoder", ids="id")
    with pytest.raises(RuntimeError, match="the loss is NaN"):
        trainer(callback).fit(Breaks(), loader())
    assert {name for name, _ in rows_of(tmp_path / "a.zarr")} == set(IDS[:12]) and callback.recorder is None


def test_without_lightning_the_error_names_the_extra() -> None:
    program = ("import sys; sys.modules['lightning'] = None\nfrom zstore.errors import MissingExtra\n"
               "try:\n import zstore.train.lightning\nexcept MissingExtra as error: print(error)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd="/",
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stdout == "zstore.train.lightning needs lightning: pip install 'zstore[lightning]'\n", done.stderr


# -- checkpoints ------------------------------------------------------------------------------------------------------

def test_tuners_that_put_a_checkpoint_back_cut_no_row(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder

    class Again(LearningRateFinder):    # type: ignore[misc]
        def on_train_epoch_start(self, run: Any, model: Any) -> None:
            if run.current_epoch:
                self.lr_find(run, model)

    class Sized(Model):
        def __init__(self) -> None:
            super().__init__()
            self.lr, self.batch_size = 0.01, BATCH

        def train_dataloader(self) -> Any:
            return DataLoader(Samples(), batch_size=self.batch_size)

    model, url = Sized(), tmp_path / "a.zarr"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer(Again(num_training_steps=3), BatchSizeFinder(steps_per_trial=1, init_val=2, max_trials=2),
                RecorderCallback(url, "encoder", ids="id", expected=IDS), max_epochs=3, default_root_dir=tmp_path).fit(model)
    assert len(rows_of(url)) == 3 * SAMPLES


def test_a_checkpoint_after_the_fit_and_one_for_evaluation(tmp_path: Path) -> None:
    url, last = tmp_path / "a.zarr", tmp_path / "last.ckpt"
    run = trainer(RecorderCallback(url, "encoder", ids="id"), max_epochs=1)
    run.fit(Model(), loader())
    run.save_checkpoint(last)
    trainer(RecorderCallback(url, "encoder", ids="id"), max_epochs=2).fit(Model(), loader(), ckpt_path=last)
    assert len(rows_of(url)) == 2 * SAMPLES
    evaluation = trainer(RecorderCallback(url, "encoder", ids="id"))
    evaluation.validate(Validated(), loader(), ckpt_path=last, verbose=False)
    assert len(rows_of(url)) == 2 * SAMPLES     # looking at an old checkpoint cuts nothing
    with pytest.warns(UserWarning, match="24 rows are cut"):
        trainer(RecorderCallback(url, "encoder", ids="id"), max_epochs=3).fit(Model(), loader(), ckpt_path=last)
    assert {epoch for _, epoch in rows_of(url)} == {0, 1, 2}


def test_a_recorder_that_is_past_a_checkpoint_refuses_it(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.zarr") as recorder:
        run, model = trainer(RecorderCallback(recorder, "encoder", ids="id"), max_epochs=1), Model()
        run.fit(model, loader())
        run.save_checkpoint(tmp_path / "first.ckpt")
        run.fit_loop.max_epochs = 2
        run.fit(model, loader())
        with pytest.raises(ValueError, match=r"rows were recorded since this .* give each fit a Recorder"):
            run.fit(model, loader(), ckpt_path=tmp_path / "first.ckpt")
    assert len(rows_of(tmp_path / "a.zarr")) == 2 * SAMPLES


def test_a_checkpoint_without_a_mark_goes_by_the_rows_steps(tmp_path: Path) -> None:
    url = tmp_path / "a.zarr"
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    trainer(RecorderCallback(url, "encoder", ids="id"), saves).fit(Model(), loader())
    path = tmp_path / "epoch=0.ckpt"
    checkpoint = torch.load(path)
    del checkpoint["zstore"]
    torch.save(checkpoint, path)
    with pytest.warns(UserWarning, match="24 rows are cut"), \
            pytest.warns(UserWarning, match="holds no mark, so the rows' steps decide: 24 of 48 rows are later"):
        trainer(RecorderCallback(url, "encoder", ids="id")).fit(Model(), loader(), ckpt_path=path)
    assert len(rows_of(url)) == 2 * SAMPLES
    with pytest.warns(UserWarning, match="saved without a recorder, so rows begin at step 6"):
        trainer(RecorderCallback(tmp_path / "new.zarr", "encoder", ids="id")).fit(Model(), loader(), ckpt_path=path)
    assert len(rows_of(tmp_path / "new.zarr")) == SAMPLES


def test_a_checkpoint_that_an_earlier_callback_saves_holds_its_batch(tmp_path: Path) -> None:
    class Early(Callback):      # type: ignore[misc]
        def on_train_batch_end(self, run: Any, *rest: Any) -> None:
            if run.global_step == 3:
                run.save_checkpoint(tmp_path / "early.ckpt")

    url = tmp_path / "a.zarr"
    trainer(Early(), RecorderCallback(url, "encoder", ids="id"), max_epochs=1).fit(Model(), loader())
    mark = torch.load(tmp_path / "early.ckpt")["zstore"]["0"]
    with zstore.Reader(url, version=mark["version"]) as then:
        assert len(then) == 3 * BATCH


# -- killed and resumed -------------------------------------------------------------------------------------------------

class Killer(Callback):     # type: ignore[misc]
    """Ends the process the hard way at the ``nth`` event of a kind."""

    def __init__(self, kind: str, nth: int) -> None:
        self.kind, self.left = kind, nth

    def _count(self, kind: str) -> None:
        self.left -= kind == self.kind
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_before_zero_grad(self, *rest: Any) -> None:
        self._count("step")

    def on_train_batch_end(self, *rest: Any) -> None:
        self._count("batch")

    def on_save_checkpoint(self, *rest: Any) -> None:
        self._count("save")         # rows are committed, the checkpoint is not written

    def on_validation_end(self, *rest: Any) -> None:
        self._count("validation")


def attempt(folder: Path, kill: tuple[str, int] | None, exact: bool) -> None:
    """One process of a run: it resumes where there is a checkpoint, and tells its losses and its final weights."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    pl.seed_everything(1 if not list(folder.glob("*.ckpt")) else random.SystemRandom().randrange(1000), verbose=False)
    sampler = ResumableSampler(SAMPLES, seed=2)
    callbacks = [RecorderCallback(folder / "a.zarr", LAYERS, ids="id", expected=IDS),
                 *([ExactResume(sampler)] if exact else []), *([Killer(*kill)] if kill else [])]
    # Its own hooks come last: a checkpoint at every second step, and one behind each epoch's validation.
    callbacks += [ModelCheckpoint(folder, filename="{step}", every_n_train_steps=2 if exact else 1, save_top_k=-1)]
    callbacks += [ModelCheckpoint(folder, filename="end-{step}", save_top_k=-1)] if exact else []
    found = sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    data = DataLoader(Samples(noise=exact), batch_size=BATCH, sampler=sampler if exact else None)
    model = Validated()
    trainer(*callbacks, max_epochs=3 if exact else 1, accumulate_grad_batches=2 if exact else 1, val_check_interval=4,
            enable_autolog_hparams=False).fit(model, data, loader(), ckpt_path=found[-1] if found else None)
    torch.save({"weights": model.state_dict(), "losses": model.losses}, folder / "done.pt")


def run_to_the_end(folder: Path, kills: list[tuple[str, int]], exact: bool = True) -> int:
    """Attempt after attempt, each killed as told, the last one not. Gives the number of kills that met their process."""
    folder.mkdir()
    met = 0
    for kill in [*kills, None]:
        process = multiprocessing.get_context("fork").Process(target=attempt, args=(folder, kill, exact))
        process.start()
        process.join(60)
        assert process.exitcode in ((0,) if kill is None else (0, -signal.SIGKILL))
        met += process.exitcode != 0
        if process.exitcode == 0:
            break
    assert process.exitcode == 0
    return met


def test_killed_again_and_again_and_resumed_it_is_the_uninterrupted_run(tmp_path: Path) -> None:
    assert run_to_the_end(tmp_path / "whole", []) == 0
    whole, rows = torch.load(tmp_path / "whole" / "done.pt"), rows_of(tmp_path / "whole" / "a.zarr", "logits")
    assert len(rows) == 3 * SAMPLES
    dice = random.Random(4)
    stories = [
        [("batch", 1), ("batch", 3), ("step", 2), ("save", 1), ("validation", 1), ("batch", 7)],    # first: no checkpoint yet
        [("save", 1), ("save", 2), ("validation", 2), ("save", 3)],
        [(dice.choice(["step", "batch", "batch", "save", "validation"]), dice.randint(1, 5)) for _ in range(8)],
    ]
    for number, kills in enumerate(stories):
        folder = tmp_path / f"story-{number}"
        assert run_to_the_end(folder, kills) >= 3
        end = torch.load(folder / "done.pt")
        assert end["losses"] == whole["losses"][-len(end["losses"]):]
        assert all(torch.equal(value, end["weights"][name]) for name, value in whole["weights"].items())
        assert rows_of(folder / "a.zarr", "logits") == rows


def test_a_plain_loader_gives_the_first_batches_again_and_coverage_says_so(tmp_path: Path) -> None:
    assert run_to_the_end(tmp_path / "run", [("batch", 2)], exact=False) == 1
    with zstore.Reader(tmp_path / "run" / "a.zarr") as run:
        found = run.coverage(IDS)[0]
    assert found.twice.tolist() == sorted(IDS[:4]) and found.missing.tolist() == sorted(IDS[-4:])
    assert str(found) == "epoch 0: 24 rows, 4 missing (s20, s21, s22, s23), 4 twice (s0, s1, s2, s3)"


def test_exact_resume_wants_its_sampler_in_the_loader() -> None:
    with pytest.raises(ValueError, match="needs the sampler in the one training loader"):
        trainer(ExactResume(ResumableSampler(SAMPLES, seed=1))).fit(Model(), loader())


@pytest.mark.parametrize("workers", [0, 1])
def test_without_a_checkpoint_a_fit_begins_its_epoch_at_the_start(tmp_path: Path, workers: int) -> None:
    sampler = ResumableSampler(SAMPLES, seed=2)
    data = loader(sampler=sampler, num_workers=workers)

    def fit(stops: int | None) -> int:
        model = Model()
        callbacks = [RecorderCallback(tmp_path / "a.zarr", "encoder", ids="id", expected=IDS), ExactResume(sampler)]
        trainer(*callbacks, *([] if stops is None else [Stops(stops)]), max_epochs=1).fit(model, data)
        return len(model.losses)

    assert fit(None) == 6
    with pytest.warns(UserWarning, match="24 rows are cut"):
        assert fit(None) == 6       # the sampler stood at its epoch's end
    with pytest.raises(RuntimeError, match="stopped"), pytest.warns(UserWarning, match="24 rows are cut"):
        fit(2)
    with pytest.warns(UserWarning, match="8 rows are cut"):
        assert fit(None) == 6
    assert len(rows_of(tmp_path / "a.zarr")) == SAMPLES


def test_an_epoch_that_an_error_ended_begins_again_and_coverage_says_so(tmp_path: Path) -> None:
    sampler, model = ResumableSampler(SAMPLES, seed=2), Model()
    callback = RecorderCallback(tmp_path / "a.zarr", "encoder", ids="id", expected=IDS)
    run = trainer(callback, ExactResume(sampler), Stops(2), max_epochs=1)
    with pytest.raises(RuntimeError, match="stopped"):
        run.fit(model, loader(sampler=sampler))
    with pytest.warns(UserWarning, match="8 keys .* superseded"), pytest.warns(UserWarning, match="32 rows, 8 twice"):
        run.fit(model, loader(sampler=sampler))
    assert len(model.losses) == 2 + 6 and callback.coverage[0].missing.tolist() == []


# -- predictions --------------------------------------------------------------------------------------------------------

def test_predictions_under_dataset_indices_or_ids(tmp_path: Path) -> None:
    model = Model()
    trainer(PredictionWriter(tmp_path / "numbers.zarr")).predict(model, loader(), return_predictions=False)
    trainer(PredictionWriter(tmp_path / "ids.zarr", ids="id", epoch=3)).predict(model, loader(), return_predictions=False)
    with torch.no_grad():
        plain = model.eval().encoder(Samples().x)
    with zstore.Reader(tmp_path / "numbers.zarr") as stored, zstore.Reader(tmp_path / "ids.zarr") as named:
        assert stored.ids.tolist() == list(range(SAMPLES)) and list(named.ids) == IDS and named.epochs.tolist() == [3]
        np.testing.assert_allclose(stored.vectors, plain.numpy(), rtol=1e-6)
        assert np.array_equal(stored.vectors, named.vectors)


def test_predictions_that_cant_be_named_are_refused(tmp_path: Path) -> None:
    class Parts(Model):
        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            return {"hidden": self.encoder(batch["x"])}

    with pytest.raises(TypeError, match="say which part to store"):
        trainer(PredictionWriter(tmp_path / "a.zarr")).predict(Parts(), loader())
    writer = PredictionWriter(tmp_path / "b.zarr", select=lambda parts: parts["hidden"])
    with pytest.raises(ValueError, match="with several dataloaders an index names no sample"):
        trainer(writer).predict(Parts(), [loader(), loader()])
    with zstore.Reader(tmp_path / "b.zarr") as stored:
        assert len(stored) == SAMPLES       # the first loader's


# -- the example ----------------------------------------------------------------------------------------------------------

def test_the_example_runs(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    program = [sys.executable, str(ROOT / "examples" / "lightning_callback.py"), str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=200, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert "1797 rows, each once" in done.stdout and "5391 rows" in done.stdout
