"""What a checkpoint holds, how it comes to the disk, and what loading one refuses."""

from __future__ import annotations

import copy
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import zstore  # noqa: E402
from zstore.errors import BehindCheckpoint  # noqa: E402
from zstore.train import Recorder, ResumableSampler, TrainState  # noqa: E402
from zstore.train.rng import generator_state, restore_generator, restore_rng, rng_state  # noqa: E402


def made(**more: Any) -> tuple[nn.Module, Any, TrainState]:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return model, optimizer, TrainState(model=model, optimizer=optimizer, **more)


def stepped(model: nn.Module, optimizer: Any) -> None:
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()


def record(recorder: Recorder, step: int, count: int = 2) -> None:
    recorder.append(np.arange(count) + 100 * step, np.full((count, 3), step, np.float32), epoch=0, step=step)


# -- generators --------------------------------------------------------------------------------------------------------

def drawn() -> list[float]:
    return [random.random(), random.gauss(0, 1), float(np.random.rand()), float(np.random.normal()), float(torch.rand(()))]


def test_generators_go_on_where_they_stood() -> None:
    random.gauss(0, 1), np.random.normal()          # each keeps a second value for later
    state = rng_state()
    first = drawn()
    restore_rng(json.loads(json.dumps(state | {"torch": None})) | {"torch": state["torch"]})
    assert drawn() == first


@pytest.mark.parametrize("bits", ["PCG64", "MT19937", "Philox", "SFC64"])
def test_generators_of_ones_own(bits: str, tmp_path: Path) -> None:
    def fresh(seed: int) -> dict[str, Any]:
        return {"numpy": np.random.Generator(getattr(np.random, bits)(seed)), "python": random.Random(seed),
                "torch": torch.Generator().manual_seed(seed)}

    def of(held: dict[str, Any]) -> list[float]:
        return [float(held["numpy"].normal()), held["python"].random(), float(torch.rand((), generator=held["torch"]))]
    held = fresh(1)
    of(held)
    TrainState(extra=held).save(tmp_path / "a.pt")
    first, other = of(held), fresh(2)
    TrainState(extra=other).load(tmp_path / "a.pt")
    assert of(other) == first
    restore_generator(other["python"], generator_state(random.Random(1)))


def test_a_state_draws_nothing_and_parts_that_draw_do_no_harm(url: str) -> None:
    class Drawing:
        def state_dict(self) -> dict[str, Any]:
            return {"x": random.random() + np.random.rand() + float(torch.rand(()))}

        def load_state_dict(self, state: Any) -> None:
            self.state_dict()
    with Recorder(url) as recorder:
        _, _, state = made(recorder=recorder, extra={"drawing": Drawing()})
        record(recorder, 1)
        before = copy.deepcopy(rng_state())
        first = drawn()
        restore_rng(before)
        saved = state.state_dict()
        assert drawn() == first
    other = made(extra={"drawing": Drawing()})[2]
    other.load_state_dict(saved)
    assert drawn() == first


# -- the file ------------------------------------------------------------------------------------------------------------

def test_what_is_kept(tmp_path: Path) -> None:
    class Bank(nn.Module):
        bank: Any

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("bank", torch.zeros(2), persistent=False)

    def whole() -> tuple[Any, ...]:
        bank, best = Bank(), {"loss": 1.0}
        model, optimizer, state = made(sampler=ResumableSampler(5, seed=1), scaler=torch.amp.GradScaler("cpu"),
                                       extra={"bank": bank, "best": best})
        return model, optimizer, bank, best, state
    model, optimizer, bank, best, state = whole()
    stepped(model, optimizer)
    model.weight.grad = torch.full((2, 3), 7.0)     # type: ignore[assignment]
    model.bias.grad = None                          # type: ignore[assignment]
    bank.bank = torch.arange(4.0)                   # it grew
    best["loss"], best["at"] = 0.5, 3
    state.epoch, state.step = 2, 9
    state.save(tmp_path / "new" / "last.pt")
    torch.load(tmp_path / "new" / "last.pt", weights_only=True)
    model2, optimizer2, bank2, best2, other = whole()
    model2.bias.grad = torch.ones(2)                # type: ignore[assignment]
    other.load(tmp_path / "new" / "last.pt")
    assert (other.epoch, other.step) == (2, 9)
    assert torch.equal(model2.weight, model.weight)             # type: ignore[arg-type]
    assert model2.weight.grad.tolist() == [[7.0] * 3] * 2       # type: ignore[union-attr, operator]
    assert model2.bias.grad is None
    assert bank2.bank.tolist() == [0, 1, 2, 3]
    assert best2 == {"loss": 0.5, "at": 3}
    for left, right in zip(optimizer.state.values(), optimizer2.state.values(), strict=True):
        assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_loaded_state_is_not_aliased() -> None:
    model, optimizer, state = made()
    stepped(model, optimizer)
    saved = copy.deepcopy(state.state_dict())
    model2, optimizer2, other = made()
    other.load_state_dict(saved)
    kept = copy.deepcopy(saved)
    stepped(model2, optimizer2)
    for name, value in kept["parts"]["optimizer"]["state"][0].items():
        assert torch.equal(saved["parts"]["optimizer"]["state"][0][name], value), name
    assert torch.equal(saved["parts"]["model"]["grads"]["bias"], kept["parts"]["model"]["grads"]["bias"])


def test_a_failed_save_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    state = made()[2]
    state.step = 1
    state.save(path)
    state.step = 2
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(OSError, match="No space"):
                state.save(path)
        assert [child.name for child in tmp_path.iterdir()] == ["last.pt"]
        assert torch.load(path, weights_only=True)["step"] == 1
    (tmp_path / ".last.pt.half").write_bytes(b"of a killed run, and longer than what comes" * 10000)
    state.save(path)
    assert torch.load(path, weights_only=True)["step"] == 2
    assert [child.name for child in tmp_path.iterdir()] == ["last.pt"]


def test_the_file_is_synced_before_its_name_and_the_folder_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (calls.append(os.path.basename(os.readlink(f"/proc/self/fd/{number}"))),
                                                     fsync(number)))
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("rename"), replace(*names)))
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc")
    made()[2].save(tmp_path / "last.pt")
    assert calls == [".last.pt.half", "rename", tmp_path.name]


def test_two_processes_that_save_at_once(tmp_path: Path) -> None:
    import fcntl

    state = made()[2]
    with open(tmp_path / ".last.pt.half", "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="another process is writing this checkpoint"):
            state.save(tmp_path / "last.pt")


def test_what_no_safe_load_would_read_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    state = TrainState(extra={"best": {"scores": [1.0, np.float64(2)]}})
    with pytest.raises(ValueError, match=r"parts\.extra\.best\.scores\[1\] is a numpy\.float64, which torch.load"):
        state.save(tmp_path / "last.pt")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"s3://bucket/last\.pt: a checkpoint goes to a local path"):
        state.save("s3://bucket/last.pt")
    with pytest.raises(FileNotFoundError):
        state.load(tmp_path / "last.pt")


# -- what loading refuses ------------------------------------------------------------------------------------------------

def test_other_parts_are_refused_before_anything_changes() -> None:
    model, optimizer, state = made()
    saved = state.state_dict()
    other = nn.Linear(3, 2)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match="the checkpoint holds optimizer, which this TrainState lacks: make it of"):
        TrainState(model=other).load_state_dict(saved)
    with pytest.raises(ValueError, match="this TrainState has scheduler, which the checkpoint lacks"):
        scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
        TrainState(model=other, optimizer=optimizer, scheduler=scheduler).load_state_dict(saved)
    with pytest.raises(ValueError, match=r"has extra\.ema, which the checkpoint lacks; the checkpoint holds optimizer, which"):
        TrainState(model=other, extra={"ema": nn.Linear(1, 1)}).load_state_dict(saved)
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())
    with pytest.raises(ValueError, match="not a checkpoint of a TrainState"):
        state.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match="has format 2, and this zstore reads 1"):
        state.load_state_dict({**saved, "format": 2})
    with pytest.raises(TypeError, match=r"extra\.best is a float, which can't be restored in place"):
        TrainState(extra={"best": 1.0})


def test_another_environment_is_told_of_once(recwarn: pytest.WarningsRecorder) -> None:
    state = made()[2]
    saved = state.state_dict()
    state.load_state_dict(saved)
    assert not recwarn.list
    saved["fingerprint"] |= {"torch": "1.0", "threads": 99}
    state.load_state_dict(saved)
    assert len(recwarn.list) == 1
    told = str(recwarn.list[0].message)
    assert "perhaps not with the same bits" in told and "threads: 99 then, " in told
    assert f"torch: 1.0 then, {torch.__version__} now" in told
    assert "numpy" not in told


def test_the_newer_switches_of_precision(tmp_path: Path) -> None:
    if not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("an older torch")
    state = made()[2]
    torch.backends.fp32_precision = "tf32"
    try:
        with pytest.raises(RuntimeError, match="legacy"):   # or there is nothing to be tested here
            torch.get_float32_matmul_precision()
        state.save(tmp_path / "last.pt")
        assert torch.load(tmp_path / "last.pt", weights_only=True)["fingerprint"]["fp32_precision"] == "tf32"
    finally:
        torch.backends.fp32_precision = "none"
    with pytest.warns(UserWarning, match="fp32_precision: tf32 then, none now"):
        state.load(tmp_path / "last.pt")


# -- store and checkpoint ------------------------------------------------------------------------------------------------

def test_rows_are_durable_before_the_checkpoint_is_there(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Recorder(url) as recorder:
        state = made(recorder=recorder)[2]
        record(recorder, 1)
        replace = os.replace
        seen = []

        def look(source: str, target: str) -> None:
            if str(target).endswith("last.pt"):
                with zstore.Reader(url) as run:
                    seen.append(len(run))
            replace(source, target)
        monkeypatch.setattr(os, "replace", look)
        state.save(tmp_path / "last.pt")
    assert seen == [2]
    assert torch.load(tmp_path / "last.pt", weights_only=True)["recorder"]["version"] > 0


def test_a_save_inside_a_batch_is_refused(url: str, tmp_path: Path) -> None:
    with Recorder(url) as recorder:
        model, _, state = made(recorder=recorder)
        recorder.watch(model)
        with recorder.batch([1, 2]):
            model(torch.ones(2, 3))
            with pytest.raises(RuntimeError, match="save after the batch"):
                state.save(tmp_path / "last.pt")
            recorder.state_dict()                           # that is the loop's own affair
        state.save(tmp_path / "last.pt")
    saved = torch.load(tmp_path / "last.pt", weights_only=True)["recorder"]
    with zstore.Reader(url, version=saved["version"]) as run:
        assert len(run) == 2


def test_loading_for_evaluation_changes_nothing(url: str, tmp_path: Path) -> None:
    with Recorder(url) as recorder:
        state = made(recorder=recorder)[2]
        record(recorder, 1)
        state.save(tmp_path / "last.pt")
        record(recorder, 2)
    versions = len(zstore.history(url))
    recorder = Recorder(url)
    made(recorder=recorder)[2].load(tmp_path / "last.pt")
    made()[2].load(tmp_path / "last.pt")                # without a recorder
    assert len(zstore.history(url)) == versions
    with pytest.warns(UserWarning, match="rolled back"):
        record(recorder, 3)
        recorder.close()
    with zstore.Reader(url) as run:
        assert sorted(set(run.field("step").tolist())) == [1, 3]


def test_a_store_behind_its_checkpoint(url: str, tmp_path: Path) -> None:
    import shutil

    with Recorder(url) as recorder:
        state = made(recorder=recorder)[2]
        record(recorder, 1)
        recorder.commit()
        shutil.copytree(url, tmp_path / "older")
        record(recorder, 2)
        state.save(tmp_path / "last.pt")
    model, _, behind = made(recorder=Recorder(tmp_path / "older"))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(BehindCheckpoint, match=r"names version \d \(commit \w+\), but .*older ends at version \d: 1 commit"):
        behind.load(tmp_path / "last.pt")
    with pytest.raises(BehindCheckpoint, match=r"but there is no store at .*gone; restore it, or leave the recorder out"):
        made(recorder=Recorder(tmp_path / "gone"))[2].load(tmp_path / "last.pt")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_checkpoint_without_a_mark_goes_by_steps(url: str, tmp_path: Path) -> None:
    state = made()[2]
    with Recorder(url) as recorder:
        record(recorder, 1)
        recorder.commit()
        state.step = 1
        state.save(tmp_path / "last.pt")
        record(recorder, 2)
    with pytest.warns(UserWarning, match="holds no mark, so the rows' steps decide: 2 of 4 rows are later than step 1"):
        recorder = Recorder(url)
        made(recorder=recorder)[2].load(tmp_path / "last.pt")
    with pytest.warns(UserWarning, match="rolled back"):
        record(recorder, 3)
        recorder.close()
    with zstore.Reader(url) as run:
        assert sorted(set(run.field("step").tolist())) == [1, 3]


def test_a_checkpoint_before_the_first_row(url: str, tmp_path: Path) -> None:
    with Recorder(url) as recorder:
        made(recorder=recorder)[2].save(tmp_path / "first.pt")
        record(recorder, 1)
    with Recorder(url) as recorder:
        made(recorder=recorder)[2].load(tmp_path / "first.pt")
        with pytest.warns(UserWarning, match="rolled back"):
            record(recorder, 5)
            recorder.commit()
    with zstore.Reader(url) as run:
        assert set(run.field("step").tolist()) == {5}


def test_dcp_takes_it_as_it_is(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    dcp = pytest.importorskip("torch.distributed.checkpoint")
    model, optimizer, state = made()
    stepped(model, optimizer)
    state.step = 4
    dcp.save({"train": state}, checkpoint_id=str(tmp_path / "dcp"))
    model2, optimizer2, other = made()
    stepped(model2, optimizer2)
    dcp.load({"train": other}, checkpoint_id=str(tmp_path / "dcp"))
    assert other.step == 4
    assert torch.equal(model.weight, model2.weight)             # type: ignore[arg-type]
