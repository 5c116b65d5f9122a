"""An order that is a function of (seed, epoch), taken up where the loop was, whatever the workers fetched ahead."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader  # noqa: E402

from zstore.train.sampler import ResumableSampler, sample_seed  # noqa: E402

LENGTH, SIZE = 23, 4


class Noisy:
    """Gives each sample with noise of its own in each epoch."""

    def __init__(self) -> None:
        self.sampler: ResumableSampler | None = None

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, row: int) -> Any:
        assert self.sampler is not None
        return row, np.random.default_rng(self.sampler.sample_seed(row)).normal()


def made(workers: int = 0, context: str | None = None, **options: Any) -> tuple[ResumableSampler, Any]:
    data = Noisy()
    data.sampler = ResumableSampler(data, seed=3)
    return data.sampler, DataLoader(data, batch_size=SIZE, sampler=data.sampler, num_workers=workers,  # type: ignore[arg-type]
                                    multiprocessing_context=context, **options)


def told(batch: Any) -> tuple[list[int], list[float]]:
    rows, noise = batch
    return rows.tolist(), noise.tolist()


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    sampler = ResumableSampler(LENGTH, seed=3)
    orders = [sampler.order(epoch) for epoch in range(3)]
    assert all(sorted(order) == list(range(LENGTH)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert ResumableSampler(LENGTH, seed=4).order(0) != orders[0]
    assert ResumableSampler(LENGTH, seed=3).order(2) == orders[2]
    assert ResumableSampler(LENGTH, seed=3, shuffle=False).order(2) == list(range(LENGTH))
    sampler.set_epoch(1)
    assert list(sampler) == orders[1]


def test_a_sample_seed_is_the_same_in_every_process() -> None:
    program = "from zstore.train.sampler import sample_seed; print(sample_seed(1, 2, 'a'), sample_seed(1, 2, 3))"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60,
                           env={"PYTHONHASHSEED": "11", "PYTHONPATH": ":".join(filter(None, sys.path))})
    assert other.stdout.split() == [str(sample_seed(1, 2, "a")), str(sample_seed(1, 2, 3))]
    seeds = {sample_seed(seed, epoch, sample) for seed in range(5) for epoch in range(5) for sample in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sample_seed(1, 2, np.int64(3)) == sample_seed(1, 2, 3)


@pytest.mark.parametrize(("workers", "context"), [(0, None), (2, "fork"), (2, "spawn")])
def test_resumed_mid_epoch_with_workers_that_fetch_ahead(workers: int, context: str | None) -> None:
    sampler, loader = made()
    whole = [[told(batch) for batch in sampler.batches(loader, epoch)] for epoch in range(3)]
    sampler, loader = made(workers, context)
    first = []
    for batch in sampler.batches(loader, 0):
        first.append(told(batch))
        if len(first) == 2:
            break
    state = sampler.state_dict()
    assert state["position"] == 2 * SIZE
    resumed, loader = made(workers, context)
    resumed.load_state_dict(state)
    rest = [told(batch) for batch in resumed.batches(loader, 0)]
    assert first + rest == whole[0]
    for epoch in (1, 2) if context != "spawn" else ():      # each spawned worker imports torch anew
        assert [told(batch) for batch in resumed.batches(loader, epoch)] == whole[epoch]


def test_batches_draw_nothing() -> None:
    sampler, loader = made()
    before = torch.get_rng_state()
    list(sampler.batches(loader, 0))
    assert torch.equal(torch.get_rng_state(), before)
    iter(loader)
    assert not torch.equal(torch.get_rng_state(), before), "if torch draws no more, batches need not care"


def test_workers_are_seeded_by_seed_and_epoch() -> None:
    """Code that draws from a worker's own generators gets the same in every run."""
    def drawn() -> list[float]:
        data = Drawing()
        sampler = ResumableSampler(data, seed=3)
        loader: Any = DataLoader(data, batch_size=2, sampler=sampler, num_workers=1)  # type: ignore[arg-type]
        torch.rand(7)
        return torch.cat(list(sampler.batches(loader, 1))).tolist()
    assert drawn() == drawn()


class Drawing:
    """Noise from whatever generator the process has."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, row: int) -> Any:
        return torch.rand(())


def test_an_epoch_that_was_done_when_the_checkpoint_was_made() -> None:
    sampler, loader = made()
    assert len(list(sampler.batches(loader, 0))) == 6
    assert sampler.position == len(sampler) == LENGTH
    with pytest.raises(ValueError, match="epoch 0 was handed out already; the next is 1"):
        next(sampler.batches(loader, 0))
    resumed, loader = made()
    resumed.load_state_dict(sampler.state_dict())
    assert list(resumed.batches(loader, 0)) == []
    assert len(list(resumed.batches(loader, 1))) == 6


def test_a_short_last_batch_that_is_dropped() -> None:
    sampler, loader = made(drop_last=True)
    assert len(list(sampler.batches(loader, 0))) == 5
    assert sampler.position == LENGTH


def test_a_loop_that_counts_for_itself() -> None:
    sampler, loader = made()
    seen = []
    for batch in loader:
        seen += told(batch)[0]
        sampler.position += len(batch[0])
        if len(seen) == 8:
            break
    resumed, loader = made()
    resumed.load_state_dict(sampler.state_dict())
    resumed.set_epoch(0)
    assert seen + [row for batch in loader for row in told(batch)[0]] == sampler.order(0)
    resumed.set_epoch(1)
    assert resumed.position == 0


@pytest.mark.parametrize(("name", "other"), [
    ("length", ResumableSampler(22, seed=3)), ("seed", ResumableSampler(LENGTH, seed=4)),
    ("shuffle", ResumableSampler(LENGTH, seed=3, shuffle=False)),
])
def test_a_place_in_another_order_is_refused(name: str, other: ResumableSampler) -> None:
    with pytest.raises(ValueError, match=f"the checkpoint's sampler has {name} .* make the sampler as it was"):
        other.load_state_dict(ResumableSampler(LENGTH, seed=3).state_dict())


def test_another_batch_size_is_warned_of() -> None:
    sampler, loader = made()
    next(sampler.batches(loader, 0))
    state = sampler.state_dict()
    data = Noisy()
    data.sampler = ResumableSampler(data, seed=3)
    data.sampler.load_state_dict(state)
    other: Any = DataLoader(data, batch_size=5, sampler=data.sampler)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="batch_size 4 then, 5 now"):
        assert told(next(data.sampler.batches(other, 0)))[0] == data.sampler.order(0)[4:9]


def test_loaders_that_cannot_be_counted() -> None:
    sampler = ResumableSampler(LENGTH, seed=3)
    data: Any = range(LENGTH)
    with pytest.raises(ValueError, match="the loader has another sampler"):
        next(sampler.batches(DataLoader(data, batch_size=2, shuffle=True), 0))
    with pytest.raises(ValueError, match="the loader has no batch_size"):
        next(sampler.batches(DataLoader(data, batch_size=None, sampler=sampler), 0))
    with pytest.raises(ValueError, match="in_order=False"):
        next(sampler.batches(DataLoader(data, batch_size=2, sampler=sampler, num_workers=1, in_order=False), 0))
