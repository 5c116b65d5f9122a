"""A training that is killed and resumed, again and again, is the training that never was: losses, weights, rows, vectors."""

from __future__ import annotations

import copy
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import plain_run  # noqa: E402
from plain_run import IDS, STEPS, Hook, Run, lead  # noqa: E402

import zstore  # noqa: E402
import zstore.train.checkpoint  # noqa: E402
from zstore.testing.kills import fork, quiet, wait  # noqa: E402
from zstore.testing.system import System, installed, kill_at  # noqa: E402

Kill = Callable[[], tuple[Hook, System]]


def nothing(moment: str, step: int) -> None:
    pass


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_moment(moment: str, step: int) -> Kill:
    """Die at one moment of one step."""
    def tell(now: str, at: int) -> None:
        if (now, at) == (moment, step):
            die()
    return lambda: (tell, System())


def at_call(number: int, torn: bool = False) -> Kill:
    """Die at the n-th system call of the store: while it is opened, a shard is written, a commit is made."""
    return lambda: (nothing, System(kill_at(number, torn=torn)))


def in_save(number: int, part: str) -> Kill:
    """Die in the n-th save: with half a file written, or with all of it and not yet under its name, or just under it."""
    def arm() -> tuple[Hook, System]:
        saves = 0
        save = torch.save

        def half(state: Any, file: Any) -> None:
            nonlocal saves
            save(state, file)
            if isinstance(file, Path):      # the weights at the end, no checkpoint
                return
            saves += 1
            if saves == number and part == "half":
                file.flush()
                os.ftruncate(file.fileno(), file.tell() // 2)
                die()

        def replace(source: str, target: str) -> None:
            if saves == number and part == "before":
                die()
            os.rename(source, target)
            if saves == number:
                die()
        torch.save = half
        vars(zstore.train.checkpoint)["os"] = SimpleNamespace(**{**vars(os), "replace": replace})
        return nothing, System()
    return arm


def live(folder: Path, kill: Kill | None) -> bool:
    """Lead one life in a forked child; True where it was killed."""
    def work() -> None:
        with quiet():
            tell, system = (nothing, System()) if kill is None else kill()
            with installed(system):
                lead(folder, tell)
    return wait(fork(work, folder / "error"), folder / "error") == signal.SIGKILL


def left(folder: Path) -> dict[str, Any]:
    """All that a training leaves, and nothing of how it got there."""
    losses: dict[int, str] = {}
    for line in (folder / "losses").read_text().splitlines():
        step, loss = line.split()
        assert losses.setdefault(int(step), loss) == loss, f"step {step} was done twice, with another loss"
    weights = torch.load(folder / "end.pt", weights_only=True)
    with zstore.Reader(folder / "store") as run:
        keys = list(zip(run.ids.tolist(), run.field("epoch").tolist(), run.field("step").tolist(), strict=True))
        rows = {key: vector.tobytes() for key, vector in zip(keys, run.vectors, strict=True)}
        assert len(rows) == len(keys)
        assert all(found.exact for found in run.coverage(IDS).values())
    assert zstore.verify(folder / "store") == []
    return {"losses": losses, "rows": rows, "weights": {name: tensor.numpy().tobytes() for name, tensor in weights.items()}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert not live(folder, None)
    found = left(folder)
    assert len(found["losses"]) == STEPS
    return found


CHOSEN: dict[str, list[Kill]] = {
    "before the first checkpoint": [at_moment("forward", 2), at_moment("backward", 3)],
    "mid-epoch and mid-accumulation": [at_moment("backward", 5), at_moment("forward", 11), at_moment("backward", 19)],
    "at the end of an epoch": [at_moment("epoch", 7), at_moment("epoch", 14), at_moment("epoch", 21)],
    "between rows and checkpoint": [at_moment("saving", 4), at_moment("saving", 8), at_moment("saved", 8)],
    "in a save": [in_save(1, "half"), in_save(2, "half"), in_save(1, "before"), in_save(2, "after")],
    "in commits": [at_call(7), at_call(31), at_call(44, torn=True), at_call(60)],
}


@pytest.mark.parametrize("name", CHOSEN)
def test_killed_at_chosen_moments(name: str, whole: dict[str, Any], tmp_path: Path) -> None:
    for kill in CHOSEN[name]:
        assert live(tmp_path, kill), "it came through"
    assert not live(tmp_path, None)
    assert left(tmp_path) == whole


def storm(folder: Path, seed: int, kills: int) -> int:
    """Lives that die at random, until one comes through; how many died."""
    rng, died = random.Random(seed), 0
    for _ in range(kills):
        kill = rng.choice([at_call(rng.randint(1, 120), rng.random() < 0.3),
                           in_save(rng.randint(1, 3), rng.choice(["half", "before"])),
                           at_moment(rng.choice(["forward", "backward"]), rng.randint(1, STEPS))])
        if not live(folder, kill):
            break
        died += 1
    else:
        assert not live(folder, None)
    return died


def test_killed_at_random(whole: dict[str, Any], tmp_path: Path) -> None:
    assert storm(tmp_path, 1, 6) > 0
    assert left(tmp_path) == whole


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_at_random_again_and_again(whole: dict[str, Any], tmp_path: Path) -> None:
    died = 0
    for seed in range(100, 160):
        folder = tmp_path / str(seed)
        folder.mkdir()
        died += storm(folder, seed, 12)
        assert left(folder) == whole
    assert died > 150


# What is left out is what a fresh run has there.
ITEMS = ["parts.model.state", "parts.model.state.0.1.running_mean", "parts.model.grads", "parts.optimizer", "parts.scheduler",
         "parts.sampler", "rng.python", "rng.numpy", "rng.torch", "epoch", "step"]


def outcome(run: Run) -> tuple[list[str], dict[str, bytes]]:
    losses: list[str] = []
    run.go(nothing, lambda: None, lambda step, loss: losses.append(loss))
    run.model.eval()
    with torch.no_grad():
        losses.append(run.model(run.loader.dataset.x).numpy().tobytes().hex())
    run.model.train()
    return losses, run.weights()


@pytest.fixture(scope="module")
def halfway() -> Any:
    """A state mid-epoch and mid-accumulation, and what comes of it."""
    run = Run()
    run.go(nothing, lambda: None, lambda step, loss: None, until=10)
    state = copy.deepcopy(run.state.state_dict())
    again = Run()
    again.state.load_state_dict(state)
    return state, outcome(again)


def test_a_resumed_run_is_the_run(halfway: Any) -> None:
    """Also for a state that is loaded twice: the first run did not change it."""
    state, expected = halfway
    run = Run()
    losses, weights = outcome(run)
    assert (losses[10:], weights) == expected
    again = Run()
    again.state.load_state_dict(state)
    assert outcome(again) == expected


@pytest.mark.parametrize("item", ITEMS)
def test_each_item_is_needed(item: str, halfway: Any) -> None:
    state, expected = copy.deepcopy(halfway[0]), halfway[1]
    fresh = Run()
    with_fresh(state, fresh.state.state_dict(), item)
    fresh.state.load_state_dict(state)
    # A counter set back makes the run longer: it ends with the epochs.
    assert outcome(fresh) != expected


def with_fresh(state: Any, fresh: Any, item: str) -> None:
    """Put the fresh run's item into the state; dots may stand in a name."""
    for key in state:
        if item == key:
            state[key] = copy.deepcopy(fresh[key])
            return
        if item.startswith(f"{key}."):
            with_fresh(state[key], fresh[key], item[len(key) + 1:])
            return
    raise AssertionError(f"no {item}")


def test_the_numbers_of_the_setting() -> None:
    """The checkpoints fall mid-epoch and mid-accumulation, or the tests above show less than they say."""
    saves = range(plain_run.SAVE_EVERY, STEPS + 1, plain_run.SAVE_EVERY)
    assert any(step % plain_run.ACCUMULATE for step in saves)
    assert any(step % plain_run.BATCHES for step in saves)
    assert np.unique(IDS).size == plain_run.SAMPLES
