"""What the hooks record, against a plain forward pass: bit for bit, each row once, however often the module runs."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import zstore
from zstore.train import Recorder

IDS = [f"s{n}" for n in range(12)]


class Net(nn.Module):
    """An encoder, perhaps under gradient checkpointing, and a head."""

    def __init__(self, reentrant: bool | None = None) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(5, 6), nn.Tanh())
        self.head = nn.Linear(6, 2)
        self.reentrant = reentrant

    def forward(self, x: Any) -> Any:
        if self.reentrant is not None and torch.is_grad_enabled():
            return self.head(checkpoint(self.encoder, x, use_reentrant=self.reentrant))
        return self.head(self.encoder(x))


def inputs(count: int = 12) -> Any:
    return torch.randn(count, 5, requires_grad=True)       # the reentrant mode needs an input with a gradient


def rows(url: str, field: str = "vectors", epoch: int = 0) -> dict[str, Any]:
    with zstore.Reader(url) as reader:
        at = np.flatnonzero(reader.field("epoch") == epoch)
        ids = reader.ids[at].tolist()
        assert len(set(ids)) == len(ids)
        return dict(zip(ids, reader.field(field)[at], strict=True))


def plain(module: Any, x: Any) -> dict[str, Any]:
    with torch.no_grad():
        return dict(zip(IDS, module(x).numpy(), strict=False))


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for key in wanted:
        assert np.array_equal(found[key], wanted[key], equal_nan=True), key


@pytest.mark.parametrize("reentrant", [None, True, False], ids=["plain", "reentrant", "non-reentrant"])
def test_each_row_once_under_accumulation_and_gradient_checkpointing(url: str, reentrant: bool | None) -> None:
    net, x = Net(reentrant), inputs()
    wanted = plain(net.encoder, x)
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    with Recorder(url) as recorder:
        recorder.watch(net.encoder)
        for start in range(0, 12, 4):
            with recorder.batch(IDS[start:start + 4], epoch=0, step=start):
                (net(x[start:start + 4]).sum() / 3).backward()      # inside the block, where checkpointing runs it again
        optimizer.step()
        assert recorder.end_epoch(0, expected=IDS).exact
    same(rows(url), wanted)
    assert rows(url, "step")["s5"] == 4


@pytest.mark.parametrize("parts", [1, 3])
def test_a_batch_in_mini_batches_is_one_batch(url: str, parts: int) -> None:
    net, x = Net(), inputs()
    with Recorder(url) as recorder:
        recorder.watch(net.encoder)
        with recorder.batch(IDS):
            for part in x.chunk(parts):
                net(part).sum().backward()
    same(rows(url), plain(net.encoder, x))


def test_a_cached_loss_counts_its_first_pass_alone(url: str) -> None:
    """As GradCache does: without gradients first, and once more inside backward, by a hook."""
    net, x = Net(), inputs()
    with Recorder(url) as recorder:
        recorder.watch(net.encoder)
        with recorder.batch(IDS):
            with torch.no_grad():
                first = [net.encoder(part) for part in x.chunk(3)]
            joined = torch.cat(first).requires_grad_()
            joined.register_hook(lambda grad: [net.encoder(part) for part in x.detach().chunk(3)] and None)
            net.head(joined).sum().backward()
    same(rows(url), plain(net.encoder, x))


@pytest.mark.parametrize("parts", [1, 2])
def test_a_module_run_over_two_columns_is_two_fields(url: str, parts: int) -> None:
    net, x, y = Net(), inputs(), inputs()
    with Recorder(url) as recorder:
        recorder.watch(net.encoder, field=["vectors", "positive"])
        with recorder.batch(IDS):
            for column in (x, y):
                for part in column.chunk(parts):
                    net.encoder(part)
    same(rows(url), plain(net.encoder, x))
    same(rows(url, "positive"), plain(net.encoder, y))


def test_two_modules_are_two_fields_of_one_row(url: str) -> None:
    net, x = Net(), inputs()
    with Recorder(url) as recorder:
        recorder.watch(net.encoder)
        recorder.watch(net, field="logits")
        with recorder.batch(IDS) as batch:
            losses = net(x).sum(1)
            batch.set(loss=losses)
    same(rows(url), plain(net.encoder, x))
    same(rows(url, "logits"), plain(net, x))
    assert np.array_equal(np.array(list(rows(url, "loss").values())), losses.detach().numpy())


def compiled(net: Any, backend: str, **options: Any) -> Any:
    torch._dynamo.reset()
    return torch.compile(net, backend=backend, **options)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torch")
@pytest.mark.filterwarnings("ignore:.*:FutureWarning:torch")
@pytest.mark.parametrize("backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_in_one_graph(url: str, backend: str) -> None:
    net, x = Net(), inputs().detach()
    net.encoder[1] = nn.ReLU(inplace=True)                  # works in place on what is recorded
    with Recorder(url) as recorder:
        recorder.watch(net.encoder[0])
        recorder.watch(net.encoder, field="after")
        fast = compiled(net, backend, fullgraph=True)
        for epoch in range(3):
            for start in (0, 6):
                with recorder.batch(IDS[start:start + 6], epoch=epoch):
                    fast(x[start:start + 6]).sum().backward()
            net.eval()
            fast(x[:6])                                     # an evaluation: no row
            net.train()
            assert recorder.end_epoch(epoch, expected=IDS).exact
    exact = backend != "inductor"                           # whose own kernels may sum in another order
    for field, module in (("vectors", net.encoder[0]), ("after", net.encoder)):
        found, wanted = rows(url, field, 2), plain(module, x)
        if exact:
            same(found, wanted)
        assert all(np.allclose(found[key], wanted[key], atol=1e-6) for key in wanted)
    torch._dynamo.reset()


def test_a_hook_that_came_after_compilation_is_noticed(url: str) -> None:
    net, x = Net(), inputs().detach()
    fast = compiled(net, "eager")
    fast(x)
    with Recorder(url) as recorder:
        recorder.watch(net.encoder)
        with pytest.raises(RuntimeError, match=r"Sequential did not run inside.*watch\(\) before torch.compile"), \
                recorder.batch(IDS):
            fast(x)
    torch._dynamo.reset()


def test_evaluation_gives_rows_only_where_asked(url: str) -> None:
    net, x = Net(), inputs()
    with Recorder(url) as recorder:
        recorder.watch(net.encoder)
        with recorder.batch(IDS, epoch=0):
            net(x)
        net.eval()
        with torch.no_grad():
            net(torch.randn(40, 5))
        net.train()
        net(torch.randn(7, 5))                              # nor does another forward outside
        net.eval()
        with torch.inference_mode(), recorder.batch(IDS, epoch=1):
            net(x.detach())
        assert recorder.recorded == 24
    same(rows(url, epoch=0), plain(net.encoder, x))
    same(rows(url, epoch=1), plain(net.encoder, x))


def test_autocast_to_bfloat16_is_stored_as_it_is(url: str) -> None:
    net, x = Net(), inputs()
    with Recorder(url) as recorder:
        recorder.watch(net.encoder)
        with torch.autocast("cpu", torch.bfloat16), recorder.batch(IDS):
            net(x).sum().backward()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        wanted = net.encoder(x)
    assert wanted.dtype == torch.bfloat16
    with zstore.Reader(url) as reader:
        assert str(reader.vectors.dtype) == "bfloat16"
        assert np.array_equal(np.asarray(reader.vectors).view(np.uint16), wanted.view(torch.uint16).numpy())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", torch.float64])
def test_dtype_rounds_as_torch_does(url: str, dtype: Any) -> None:
    net, x = Net(), inputs()
    with Recorder(url, dtype=dtype) as recorder:
        recorder.watch(net.encoder)
        with recorder.batch(IDS):
            net(x)
    torch_type = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)
    wanted = net.encoder(x).detach().to(torch_type)
    with zstore.Reader(url) as reader:
        assert str(reader.vectors.dtype) == str(torch_type).removeprefix("torch.")
        assert np.array_equal(np.asarray(reader.vectors, np.float64), wanted.double().numpy())


def test_what_would_overflow_is_refused_and_not_made_an_infinity(url: str) -> None:
    with Recorder(url, dtype="float16") as recorder:
        recorder.append(IDS[:2], torch.ones(2, 3))
        with pytest.raises(ValueError, match="overflows float16"):
            recorder.append(IDS[2:4], torch.full((2, 3), 1e9))
    assert len(rows(url)) == 2


def test_a_sequence_per_sample_is_kept_whole(url: str) -> None:
    x = torch.randn(12, 7, 5)
    layer = nn.Linear(5, 3)
    recorder = Recorder(url)
    recorder.watch(layer)
    with recorder.batch(IDS):
        layer(x)
    with pytest.raises(ValueError, match=r"of shape \(9, 3\) per row, but the store holds \(7, 3\)"), recorder.batch(IDS):
        layer(torch.randn(12, 9, 5))
    with pytest.warns(UserWarning, match="12 rows were dropped"):
        recorder.close()
    same(rows(url), plain(layer, x))


def test_what_a_module_gives_besides_tensors(url: str) -> None:
    class Wrapped(nn.Linear):
        def forward(self, x: Any) -> Any:
            return {"hidden": super().forward(x), "mask": None}

    layer, x = Wrapped(5, 3), inputs()
    with Recorder(url) as recorder:
        watched = recorder.watch(layer)
        with pytest.raises(TypeError, match=r"Wrapped gives a dict with hidden, mask, not a tensor.*select="), \
                recorder.batch(IDS):
            layer(x)
        watched.remove()
        with pytest.raises(ValueError, match="nothing is watched"), recorder.batch(IDS):
            pass
        recorder.watch(layer, field="flat", select=lambda output: output["hidden"][:, 0])
        with pytest.raises(ValueError, match=r"gives \(12,\), not one vector per sample"), recorder.batch(IDS):
            layer(x)
    with Recorder(url) as recorder:
        recorder.watch(layer, select=lambda output: output["hidden"])
        with recorder.batch(IDS):
            layer(x)
    same(rows(url), dict(zip(IDS, layer(x)["hidden"].detach().numpy(), strict=True)))


def test_values_that_are_gone_before_the_batch_ends_are_noticed(url: str) -> None:
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True))
    x = inputs()
    with Recorder(url) as recorder:
        watched = recorder.watch(net[0])
        with pytest.raises(RuntimeError, match=r"what Linear gave was changed in place.*output.clone\(\)"), recorder.batch(IDS):
            net(x)
        watched.remove()
    with Recorder(url) as recorder:
        recorder.watch(net[0], select=lambda output: output.clone())
        with recorder.batch(IDS):
            net(x)
    same(rows(url), plain(net[0], x))


@pytest.mark.parametrize(("ids", "said"), [
    (IDS[:11], "Sequential gave 12 vectors in this batch, and there are 11 ids; pass one id per vector"),
    (IDS[:6], r'it ran 2 times over the batch.*field=\["vectors", "vectors2"\]'),
    (IDS * 2, "gave 12 vectors in this batch, and there are 24 ids"),
])
def test_ids_that_do_not_match_the_rows(url: str, ids: list[str], said: str) -> None:
    net = Net()
    before = copy.deepcopy(net.state_dict())
    with Recorder(url) as recorder:
        recorder.watch(net.encoder)
        with pytest.raises(ValueError, match=said), recorder.batch(ids):
            net(inputs()).sum().backward()
        assert recorder.recorded == recorder.dropped == 0
        with recorder.batch(IDS):                           # and the recorder is as before
            net(inputs())
    assert len(rows(url)) == 12
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_forwards_of_another_thread_are_not_of_the_batch(url: str) -> None:
    net, x = Net(), inputs()

    def elsewhere() -> None:
        with torch.no_grad():
            net(torch.randn(40, 5))

    with Recorder(url) as recorder:
        recorder.watch(net.encoder)
        with recorder.batch(IDS):
            thread = threading.Thread(target=elsewhere)
            thread.start()
            net(x)
            thread.join()
        with pytest.raises(RuntimeError, match="ran on another thread"), recorder.batch(IDS):
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
    same(rows(url), plain(net.encoder, x))


def test_forgotten_ids_are_told_once_and_early(url: str) -> None:
    net = Net()
    with Recorder(url) as recorder:
        recorder.watch(net.encoder)
        recorder.watch(net.head, field="logits")
        with pytest.warns(UserWarning, match=r"Sequential ran in training, and outside `with recorder.batch") as told:
            for _ in range(5):
                net(inputs())
        assert len(told) == 1
        with warnings.catch_warnings(record=True) as more:
            for _ in range(20):
                net(inputs())
        assert not more
        with pytest.raises(RuntimeError, match="so no row is recorded"):
            recorder.end_epoch(0)
    assert not Path(url).exists()


def test_a_copy_of_the_model_is_not_watched(url: str) -> None:
    net, x = Net(), inputs()
    with Recorder(url) as recorder:
        recorder.watch(net.encoder, select=lambda output: output)           # which no pickle can hold
        others = [copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
        with recorder.batch(IDS):
            net(x)
            for other in others:
                other(x)
        with pytest.raises(TypeError, match="state_dict"):
            copy.deepcopy(recorder)
    same(rows(url), plain(net.encoder, x))
