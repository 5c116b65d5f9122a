"""A plain PyTorch loop on handwritten digits: every sample's hidden layer at every epoch, and a run that is stopped and
resumed as if it had never been.

    pip install "zstore[demo]"
    python examples/plain_loop.py
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset

import zstore
from zstore.train import Recorder, ResumableSampler, TrainState

QUICK = os.environ.get("ZSTORE_EXAMPLE_QUICK") == "1"
EPOCHS, SAVE_EVERY = (2, 10) if QUICK else (8, 25)


class Digits(Dataset):
    """A sample carries its own id: whatever shuffles, the id stays with its image."""

    def __init__(self) -> None:
        self.digits = load_digits()

    def __len__(self) -> int:
        return len(self.digits.target)

    def __getitem__(self, n: int) -> dict:
        return {"id": f"digit-{n:04d}", "x": torch.tensor(self.digits.data[n] / 16, dtype=torch.float32),
                "label": int(self.digits.target[n])}


def train(folder: Path, stop_after: int | None = None) -> list[float]:
    """The losses of the steps that were made; goes on from the checkpoint if there is one."""
    torch.manual_seed(0)
    data, checkpoint, losses = Digits(), folder / "last.pt", []
    body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 16), nn.Tanh())
    model = nn.Sequential(body, nn.Linear(16, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    sampler = ResumableSampler(data, seed=0)
    loader = DataLoader(data, batch_size=32, sampler=sampler)

    with Recorder(folder / "digits.zarr") as recorder:
        recorder.watch(body)
        state = TrainState(model=model, optimizer=optimizer, sampler=sampler, recorder=recorder)
        if checkpoint.exists():
            state.load(checkpoint)
        for state.epoch in range(state.epoch, EPOCHS):       # noqa: B020
            for batch in sampler.batches(loader, state.epoch):
                state.step += 1
                with recorder.batch(batch["id"], epoch=state.epoch, step=state.step, label=batch["label"]) as rows:
                    each = nn.functional.cross_entropy(model(batch["x"]), batch["label"], reduction="none")
                    rows.set(loss=each.detach())
                optimizer.zero_grad()
                each.mean().backward()
                optimizer.step()
                losses.append(each.mean().item())
                if state.step % SAVE_EVERY == 0:
                    state.save(checkpoint)
                if state.step == stop_after:
                    return losses
            print(recorder.end_epoch(state.epoch, expected=[f"digit-{n:04d}" for n in range(len(data))]))
    return losses


def main(folder: Path) -> None:
    whole = train(folder / "whole")
    print("once more, stopped in the middle of an epoch, and resumed")
    first = train(folder / "resumed", stop_after=SAVE_EVERY * 7 + 3)
    second = train(folder / "resumed")
    assert first[:SAVE_EVERY * 7] + second == whole, "the resumed run made other losses"

    one, two = (zstore.Reader(folder / name / "digits.zarr") for name in ("whole", "resumed"))
    ids = sorted(set(one.ids.tolist()))
    assert len(one) == len(two) == EPOCHS * len(ids)
    for epoch in range(EPOCHS):
        assert np.array_equal(one.get(ids, epoch=epoch), two.get(ids, epoch=epoch)), "the resumed run recorded other rows"
    print(f"the resumed run: the same {len(whole)} losses, the same {len(two):,} rows, bit for bit")

    last = one.epoch(EPOCHS - 1)
    hardest = last.ids[np.argsort(last.field("loss"))[-3:]]
    path = one.get(list(hardest), epoch=list(range(EPOCHS)))
    moved = np.linalg.norm(np.diff(path.astype(float), axis=1), axis=2).round(2)
    for name, steps in zip(hardest, moved.tolist(), strict=True):
        print(f"{name} is still hard; it moved by {steps} from epoch to epoch")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
