"""Recording never changes the loss: with and without it, losses and weights are equal bit for bit."""

from __future__ import annotations

import ast
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

from zstore.train import Recorder, snapshot, undisturbed  # noqa: E402

ROWS, EPOCHS = 48, 3


class Noisy(Dataset[Any]):
    """Every sample is made with python's and numpy's random numbers, as augmentations are."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, n: int) -> Any:
        x = np.full(8, n / ROWS, np.float32) + np.random.rand(8).astype(np.float32) * 0.1
        return f"s{n}", x[::-1].copy() if random.random() < 0.5 else x, np.float32(n % 3)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(16, 1)

    def forward(self, x: Any) -> Any:
        return self.head(self.body(x))[:, 0]


def train(recorder: Recorder | None, probe: Any = None) -> tuple[list[float], dict[str, Any]]:
    """Losses and final state of a run; ``probe(net, epoch)`` is called after each epoch."""
    torch.set_num_threads(1)
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    net, losses, step = Net(), [], 0
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    if recorder is not None:
        recorder.watch(net.body)
        recorder.watch(net.body[0], field="first")
    loader = DataLoader(Noisy(), batch_size=8, shuffle=True)
    for epoch in range(EPOCHS):
        for ids, x, y in loader:
            optimizer.zero_grad()
            if recorder is None:
                loss = nn.functional.mse_loss(net(x), y, reduction="none").mean()
            else:
                with recorder.batch(ids, epoch=epoch, step=step) as rows:
                    each = nn.functional.mse_loss(net(x), y, reduction="none")
                    rows.set(loss=each.detach())
                    loss = each.mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            step += 1
            if recorder is not None and step % 4 == 0:
                recorder.state_dict()
        if recorder is not None:
            assert recorder.end_epoch(epoch, expected=[f"s{n}" for n in range(ROWS)]).exact
        if probe is not None:
            probe(net, epoch)
    return losses, {name: value.clone() for name, value in net.state_dict().items()}


def looking(store: zstore.Writer) -> Any:
    """A probe pass that draws random numbers, and would move BatchNorm's statistics."""
    def probe(net: Any, epoch: int) -> None:
        snapshot(store, net, DataLoader(Noisy(), batch_size=16), epoch=epoch, ids=0, module=net.body)
    return probe


def bits(run: tuple[list[float], dict[str, Any]]) -> Any:
    return np.array(run[0]).tobytes(), {name: value.numpy().tobytes() for name, value in run[1].items()}


@pytest.fixture(scope="module")
def plain() -> Any:
    return bits(train(None))


def test_the_training_repeats_itself(plain: Any) -> None:
    assert bits(train(None)) == plain


@pytest.mark.parametrize("options", [{}, {"dtype": "float16", "codec": "raw", "ring": 1}],
                         ids=["as it comes", "float16, ring of 1"])
def test_recording_changes_no_bit(options: dict[str, Any], plain: Any, tmp_path: Path) -> None:
    place = str(tmp_path / "a.zarr")
    with Recorder(place, **options) as recorder, zstore.Writer(str(tmp_path / "probe.zarr")) as store:
        assert bits(train(recorder, looking(store))) == plain
    with zstore.Reader(str(tmp_path / "a.zarr")) as run, zstore.Reader(str(tmp_path / "probe.zarr")) as seen:
        assert len(run) == len(seen) == ROWS * EPOCHS and run.field("first").shape == (ROWS * EPOCHS, 16)


def test_a_resumed_recording_changes_no_bit(plain: Any, tmp_path: Path) -> None:
    url = str(tmp_path / "a.zarr")
    with Recorder(url) as first:
        zeros = np.zeros((1, 16), np.float32)
        first.append(["before"], zeros, epoch=9, step=0, loss=[0.0], first=zeros)
        mark = first.state_dict()
    with Recorder(url) as recorder:
        recorder.load_state_dict(mark)
        assert bits(train(recorder)) == plain


@pytest.mark.parametrize("guarded", [True, False])
def test_a_probe_pass_changes_the_loss_unless_undisturbed(guarded: bool, plain: Any) -> None:
    """Which shows that these tests can fail: eval mode and no gradients alone are not enough."""
    def look(net: Any, epoch: int) -> None:
        if guarded:
            with undisturbed(net):
                look_at(net)
        else:
            net.eval()
            with torch.no_grad():
                look_at(net)
            net.train()
    assert (bits(train(None, look)) == plain) is guarded


def look_at(net: Any) -> None:
    for _, x, _ in DataLoader(Noisy(), batch_size=16):
        net(x)


GLOBAL = ("random|randint|uniform|shuffle|choice|choices|sample|seed|rand|randn|permutation|gauss|randrange|randperm|normal|"
          "manual_seed|getrandbits|randbytes")


def test_nothing_draws_from_the_global_generators() -> None:
    """A lost race's jitter, say: no test of a single writer would meet it."""
    house, found = Path(zstore.__file__).parent, []
    for path in house.rglob("*.py"):
        if path.relative_to(house).parts[0] in ("testing", "demo"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            own = isinstance(node, ast.Call) and any(word.arg == "generator" for word in node.keywords)
            if not own and re.fullmatch(rf"(random|np\.random|numpy\.random|torch)\.({GLOBAL})", called):
                found.append(f"{path.relative_to(house)}:{node.lineno} {called}")
    assert not found
