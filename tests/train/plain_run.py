"""A training with everything that makes a resume hard, small enough to be killed a hundred times."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from zstore.train import Recorder, ResumableSampler, TrainState

SAMPLES, BATCH, EPOCHS, ACCUMULATE, SAVE_EVERY = 26, 4, 3, 3, 4
BATCHES = -(-SAMPLES // BATCH)
STEPS = BATCHES * EPOCHS
IDS = [f"s{number}" for number in range(SAMPLES)]

Hook = Callable[[str, int], None]


class Augmented:
    """Samples with noise from all three global generators, drawn when a sample is fetched."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.x = torch.randn(SAMPLES, 6, generator=generator)
        self.y = (self.x.sum(1) > 0).long()

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, row: int) -> Any:
        noise = np.random.normal() * 0.1 + random.random() * 0.1 + float(torch.rand(())) * 0.1
        return row, self.x[row] + noise, self.y[row]


class Run:
    """One process's part of the training."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(1)
        np.random.seed(2)
        random.seed(3)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
        self.model = nn.Sequential(self.body, nn.Linear(8, 2))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.05)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.1, total_steps=STEPS)
        data = Augmented()
        self.sampler = ResumableSampler(data, seed=7)
        self.loader: Any = DataLoader(data, batch_size=BATCH, sampler=self.sampler)  # type: ignore[arg-type]
        self.recorder = recorder
        self.state = TrainState(model=self.model, optimizer=self.optimizer, scheduler=self.scheduler, sampler=self.sampler,
                                recorder=recorder)
        if recorder is not None:
            recorder.watch(self.body)

    def go(self, tell: Hook, save: Callable[[], None], lose: Callable[[int, str], None], until: int = 0) -> None:
        """Train on; ``tell`` hears of each moment, ``lose`` of each step's loss."""
        state = self.state
        for epoch in range(state.epoch, EPOCHS):
            state.epoch = epoch
            for rows, x, y in self.sampler.batches(self.loader, epoch):
                state.step += 1
                lose(state.step, self.learn(rows, x, y, tell).hex())
                if state.step % SAVE_EVERY == 0:
                    save()
                if state.step == until:
                    return
            if self.recorder is not None:
                assert self.recorder.end_epoch(state.epoch, expected=IDS).exact
            tell("epoch", state.step)

    def learn(self, rows: Any, x: Any, y: Any, tell: Hook) -> float:
        step = self.state.step
        if self.recorder is None:
            out = self.model(x)
        else:
            with self.recorder.batch([IDS[row] for row in rows.tolist()], epoch=self.state.epoch, step=step):
                out = self.model(x)
                tell("forward", step)
        loss = nn.functional.cross_entropy(out, y, label_smoothing=random.random() * 0.1)
        (loss / ACCUMULATE).backward()
        tell("backward", step)
        if step % ACCUMULATE == 0:
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()
        return float(loss.detach())

    def weights(self) -> dict[str, bytes]:
        return {name: tensor.numpy().tobytes() for name, tensor in self.model.state_dict().items()}


def lead(folder: Path, tell: Hook) -> None:
    """One process's life: go on from the last checkpoint, or begin, and train to the end."""
    log = os.open(folder / "losses", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    checkpoint = folder / "last.pt"
    with Recorder(folder / "store", codec="raw", rows_per_shard=16) as recorder:
        run = Run(recorder)
        if checkpoint.exists():
            run.state.load(checkpoint)

        def save() -> None:
            tell("saving", run.state.step)
            run.state.save(checkpoint)
            tell("saved", run.state.step)
        run.go(tell, save, lambda step, loss: void(os.write(log, f"{step} {loss}\n".encode())))
    torch.save(run.model.state_dict(), folder / "end.pt")


def void(result: object) -> None:
    """For the sake of types."""
