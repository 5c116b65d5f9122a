"""Passes over a probe set: nothing of the training moves, and checkpoints become epochs."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from zstore.train import Recorder, TrainState, backfill, snapshot, undisturbed  # noqa: E402

ROWS, DIM = 20, 6


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


class Frozen(nn.BatchNorm1d):
    """Stays in eval mode whatever it is told, as frozen layers do; and notes that it was told."""

    told = 0

    def train(self, mode: bool = True) -> Frozen:
        self.told += 1
        return super().train(False)


class Counting(nn.Module):
    """Buffers that move in eval mode too: one in place, one replaced, one made on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("last", torch.full((1,), torch.nan), persistent=False)

    def forward(self, x: Any) -> Any:
        self.calls += 1
        self.last = x.mean()[None]
        if not hasattr(self, "made"):
            self.register_buffer("made", torch.ones(1))
        return x


def model() -> Any:
    return nn.Sequential(nn.Linear(4, DIM), nn.BatchNorm1d(DIM), Frozen(DIM), Counting(), nn.Dropout(0.5))


def loader(**options: Any) -> Any:
    x = torch.linspace(-1, 1, ROWS * 4).reshape(ROWS, 4)
    return DataLoader(TensorDataset(torch.arange(ROWS), x), batch_size=8, **options)


def state_of(net: Any) -> Any:
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    return ([m.training for m in net.modules()], buffers, [id(b) for b in net.buffers()],
            random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2:], torch.get_rng_state().tolist(),
            torch.is_grad_enabled())


def same(one: Any, two: Any) -> bool:
    tensors = one[1].keys() == two[1].keys() and all(torch.equal(torch.nan_to_num(b), torch.nan_to_num(two[1][name]))
                                                     for name, b in one[1].items())
    return bool(tensors and one[:1] + one[2:] == two[:1] + two[2:])


@pytest.mark.parametrize("fails", [False, True])
def test_undisturbed_puts_everything_back(fails: bool) -> None:
    net = model()
    net[1].eval()
    told, before = net[2].told, state_of(net)

    def look() -> None:
        with undisturbed(net):
            assert not any(m.training for m in net.modules()) and not torch.is_grad_enabled()
            net.train()                                             # somebody's own evaluation code
            random.random(), np.random.rand(), torch.rand(1)
            for _, x in loader(shuffle=True):
                net(x)
            assert not same(before, state_of(net))
            net[3].calls.fill_(torch.nan)
            if fails:
                raise RuntimeError("no")
    if fails:
        with pytest.raises(RuntimeError, match="no"):
            look()
    else:
        look()
    assert same(before, state_of(net)) and net[2].told == told + 1  # the one that our look() made


def test_a_graph_that_waits_for_backward_survives() -> None:
    net = nn.BatchNorm1d(4).eval()      # in eval mode the graph holds the buffers themselves
    loss = net(torch.ones(8, 4, requires_grad=True)).sum()
    with undisturbed(net):
        net(torch.zeros(8, 4))
    loss.backward()


@pytest.mark.parametrize("kind", ["recorder", "writer"])
def test_a_snapshot_is_one_epoch(kind: str, tmp_path: Path) -> None:
    net, url = model(), str(tmp_path / "a.zarr")
    store: Any = Recorder(url) if kind == "recorder" else zstore.Writer(url)
    with store:
        before = state_of(net)
        assert snapshot(store, net, loader(), epoch=3, ids=0, tenth=lambda batch: batch[0] // 10) == ROWS
        assert same(before, state_of(net))
        with zstore.Reader(url) as head:        # committed
            assert head.epochs.tolist() == [3] and head.coverage(ROWS)[3].exact
    with zstore.Reader(url) as head:
        with torch.no_grad():
            plain = net.eval()(loader().dataset.tensors[1])
        assert np.array_equal(head.epoch(3).get(range(ROWS)), plain.numpy())
        assert head.get(range(ROWS), field="tenth").tolist() == [n // 10 for n in range(ROWS)]



def test_a_recorder_that_watches_records_what_it_watches(tmp_path: Path) -> None:
    net, url = model(), str(tmp_path / "a.zarr")
    with Recorder(url) as recorder:
        recorder.watch(net[0])
        recorder.watch(net[1], field="normed")
        with recorder.batch(range(100, 108), epoch=0):
            net(torch.ones(8, 4))
        assert snapshot(recorder, net, loader(), epoch=0, ids=0) == ROWS
        found = recorder.end_epoch(0, expected=[*range(ROWS), *range(100, 108)])
    assert found.exact
    with zstore.Reader(url) as head, torch.no_grad():
        assert np.array_equal(head.get([0, 7, 19]), net[0](loader().dataset.tensors[1])[[0, 7, 19]].numpy())
        assert set(head.get([0], field="normed").shape) == {1, DIM}


def test_ways_to_say_what_a_batch_is(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, DIM), nn.Linear(DIM, 2)).eval()
    x = loader().dataset.tensors[1]

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net

        def forward(self, x: Any) -> Any:
            return {"out": self.inner(x)}
    every = [f"s{n}" for n in range(ROWS)]
    batches = [{"id": every[i:i + 5], "x": x[i:i + 5], "y": list(range(i, i + 5))} for i in range(0, ROWS, 5)]
    with zstore.Writer(str(tmp_path / "a.zarr")) as writer:
        snapshot(writer, Named(), batches, epoch=0, select=lambda out: out["out"], y="y")
        snapshot(writer, Named(), batches, epoch=1, module=net[1], y="y")
        snapshot(writer, net, batches, epoch=2, forward=lambda batch: net(batch["x"]), y=np.arange(ROWS),
                 ids=lambda batch: batch["id"])
        snapshot(writer, net, loader(), epoch=3, ids=every, forward=lambda batch: net(batch[1]), y=0)
    with zstore.Reader(str(tmp_path / "a.zarr")) as head:
        found = head.get(every, epoch=[0, 1, 2, 3])
        assert (found == found[:, :1]).all() and np.abs(found).sum() > 0
        assert head.get(every, epoch=[0, 1, 2, 3], field="y").tolist() == [[n] * 4 for n in range(ROWS)]


@pytest.mark.parametrize("kind", ["recorder", "writer"])
def test_a_pass_that_fails_half_way_leaves_no_row_and_is_made_again(kind: str, tmp_path: Path) -> None:
    class Loader:
        """Uses its memory again, and breaks once."""

        broken = False

        def __iter__(self) -> Any:
            ids, x = torch.zeros(5, dtype=torch.int64), torch.zeros(5, 4)
            for at in range(0, ROWS, 5):
                if at == 10 and not self.broken:
                    self.broken = True
                    raise OSError("no network")
                ids[:] = torch.arange(at, at + 5)
                x[:] = loader().dataset.tensors[1][at:at + 5]
                yield {"id": ids, "x": x, "y": ids * 2}
    net, url, batches = nn.Identity(), str(tmp_path / "a.zarr"), Loader()
    store: Any = Recorder(url) if kind == "recorder" else zstore.Writer(url)
    with store:
        if kind == "recorder":
            store.watch(net)
        for attempt in range(2):
            with pytest.raises(OSError, match="no network") if attempt == 0 else nullcontext():
                assert snapshot(store, net, batches, epoch=0, forward=lambda batch: net(batch["x"]), y="y") == ROWS
    with zstore.Reader(url) as head:
        assert head.coverage(ROWS)[0].exact and len(head) == ROWS
        assert np.array_equal(head.get(range(ROWS)), loader().dataset.tensors[1].numpy())
        assert head.get(range(ROWS), field="y").tolist() == list(range(0, 2 * ROWS, 2))


def test_mistakes_are_told(tmp_path: Path) -> None:
    net = nn.Linear(4, DIM)
    with zstore.Writer(str(tmp_path / "a.zarr")) as writer:
        with pytest.raises(ValueError, match=r"is a list without 'id'; pass ids=: a key of the batch"):
            snapshot(writer, net, loader(), epoch=0)
        with pytest.raises(ValueError, match="ids in the loader's order, but the loader shuffles"):
            snapshot(writer, net, loader(shuffle=True), epoch=0, ids=range(ROWS))
        with pytest.raises(ValueError, match="there are 30 ids, and the loader gave 20 samples"):
            snapshot(writer, net, loader(), epoch=0, ids=range(30), forward=lambda batch: net(batch[1]))
        with pytest.raises(ValueError, match="gave 1 vectors in this batch, and there are 8 ids"):
            snapshot(writer, net, loader(), epoch=0, ids=0, select=lambda out: out.mean(0)[None])
        with pytest.raises(RuntimeError, match="Linear did not run"):
            snapshot(writer, net, loader(), epoch=0, ids=0, module=nn.Linear(1, 1))
        assert net.training
    with Recorder(str(tmp_path / "c.zarr")) as recorder:
        recorder.watch(net, field="other")
        with pytest.raises(ValueError, match='every row has "vectors", and there is only other'):
            snapshot(recorder, net, loader(), epoch=0, ids=0)
        with pytest.raises(ValueError, match="other: the model gives this field, and the call sets it too"):
            snapshot(recorder, net, loader(), epoch=0, ids=0, other=0)
    with pytest.raises(TypeError, match="not to str"):
        snapshot(str(tmp_path / "a.zarr"), net, loader(), epoch=0)      # type: ignore[arg-type]
    with pytest.raises(TypeError, match="would start the store over"):
        backfill({}, Recorder(str(tmp_path / "b.zarr")), net, loader())     # type: ignore[arg-type]


def kept(folder: Path) -> dict[int, Any]:
    """Checkpoints as they come: a bare state_dict in memory and on the disk, one of a TrainState, one of Lightning's shape."""
    net, found = nn.Linear(4, DIM), {}
    for epoch in range(4):
        nn.init.constant_(net.weight, epoch + 1.0)
        state = {name: value.clone() for name, value in net.state_dict().items()}
        found[epoch] = folder / f"{epoch}.pt"
        if epoch == 0:
            found[epoch] = state
        elif epoch == 1:
            TrainState(model=net).save(found[epoch])
        else:
            torch.save(state if epoch == 2 else {"state_dict": state, "epoch": 3}, found[epoch])
    return found


def test_backfill_records_checkpoints_as_epochs(tmp_path: Path) -> None:
    url, net, loads = str(tmp_path / "a.zarr"), nn.Linear(4, DIM), []
    found = kept(tmp_path)
    assert backfill(found, url, net, loader(), ids=0) == dict.fromkeys(range(4), ROWS)

    def load(model: Any, checkpoint: Any) -> None:
        loads.append(checkpoint)
        model.load_state_dict(found[0])
    assert backfill({**found, 7: "seven"}, url, net, loader(), ids=0, load=load) == {0: 0, 1: 0, 2: 0, 3: 0, 7: ROWS}
    assert loads == ["seven"] and float(net.weight.detach()[0, 0]) == 1.0
    assert backfill(found, url, net, loader(), ids=0, load=load) == dict.fromkeys(range(4), 0) and len(loads) == 1
    with zstore.Reader(url) as head:
        assert all(c.exact for c in head.coverage(ROWS).values()) and head.epochs.tolist() == [0, 1, 2, 3, 7]
        x = loader().dataset.tensors[1].numpy()
        bias = head.get(0, epoch=0) - (x @ np.ones((4, DIM), np.float32))[0]
        for epoch in range(4):
            assert np.allclose(head.epoch(epoch).get(range(ROWS)), x @ np.full((4, DIM), epoch + 1.0) + bias, atol=1e-5)
    with pytest.raises(ValueError, match="is a folder; say how to load it"):
        backfill({9: tmp_path}, url, net, loader(), ids=0)


def test_a_checkpoints_buffers_stay_with_its_weights(tmp_path: Path) -> None:
    net = nn.BatchNorm1d(4)
    found = {epoch: {**net.state_dict(), "running_mean": torch.full((4,), epoch + 1.0)} for epoch in range(2)}
    backfill(found, str(tmp_path / "a.zarr"), net, loader(), ids=0)
    assert net.training and net.running_mean.tolist() == [2.0] * 4
    with zstore.Reader(str(tmp_path / "a.zarr")) as head:
        assert np.allclose(head.get(range(ROWS), epoch=0) - head.get(range(ROWS), epoch=1), 1, atol=1e-3)


def test_an_epoch_that_broke_off_is_filled_up(tmp_path: Path) -> None:
    url, net, found = str(tmp_path / "a.zarr"), nn.Linear(4, DIM), kept(tmp_path)
    backfill(found, str(tmp_path / "whole.zarr"), net, loader(), ids=0)
    with zstore.Writer(url) as writer:      # rows 3 to 10 of epoch 1, a part of two batches, and all of epoch 0
        backfill({0: found[0]}, writer, net, loader(), ids=0)
        with zstore.Reader(str(tmp_path / "whole.zarr")) as whole:
            writer.append(range(3, 11), whole.get(range(3, 11), epoch=1), epoch=1)
        assert backfill(found, writer, net, loader(), ids=0) == {0: 0, 1: ROWS - 8, 2: ROWS, 3: ROWS}
    with zstore.Reader(url) as head, zstore.Reader(str(tmp_path / "whole.zarr")) as whole:
        assert all(c.exact for c in head.coverage(ROWS).values())
        assert np.array_equal(head.get(range(ROWS), epoch=[0, 1, 2, 3]), whole.get(range(ROWS), epoch=[0, 1, 2, 3]))


KILLED = """
import os, signal, sys
import torch
from torch import nn
from zstore.train import backfill
sys.path.insert(0, {tests!r})
from test_probe import DIM, kept, loader
from pathlib import Path
net, calls = nn.Linear(4, DIM), []
def forward(batch):
    calls.append(1)
    if len(calls) == 8:                 # the second batch of epoch 2
        os.kill(os.getpid(), signal.SIGKILL)
    return net(batch[1])
torch.manual_seed(0)
backfill(kept(Path({folder!r})), {url!r}, net, loader(), ids=0, forward=forward)
"""


def test_killed_in_the_middle_and_called_again(tmp_path: Path) -> None:
    url = str(tmp_path / "a.zarr")
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path), url=url)
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with zstore.Reader(url) as head:
        assert head.epochs.tolist() == [0, 1] and all(c.exact for c in head.coverage(ROWS).values())
    assert backfill(kept(tmp_path), url, nn.Linear(4, DIM), loader(), ids=0) == {0: 0, 1: 0, 2: ROWS, 3: ROWS}
    with zstore.Reader(url) as head:
        assert all(c.exact for c in head.coverage(ROWS).values()) and len(head) == 4 * ROWS
