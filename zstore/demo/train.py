"""The demo's training: handwritten digits, and the penultimate layer of every sample recorded from inside the loop.

Run as a process of its own, because it is there to be killed. It says where it stands in lines of JSON on stdout. The
order of the samples is a function of (seed, epoch) alone, so a resumed run sees what the killed one would have seen.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn

import zstore

SEED = 7
DIM = 16
BATCH = 32
ROWS_PER_SHARD = 4096     # 256 KiB of vectors: small enough that a demo fills a few shards
SLOW_STEP_S = 0.02        # a doomed run walks its last steps, so that the kill surely meets it in the middle


class Training:
    """All that a checkpoint has to hold: the network, its optimizer, and the place in the epochs."""

    def __init__(self, epochs: int) -> None:
        torch.manual_seed(SEED)
        torch.set_num_threads(1)      # one thread adds up in one order: runs can be compared bit for bit
        digits = load_digits()
        self.images = torch.tensor(digits.data / 16, dtype=torch.float32)
        self.labels = torch.tensor(digits.target)
        self.ids = [f"digit-{number:04d}" for number in range(len(self.labels))]
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, DIM), nn.Tanh())
        self.head = nn.Linear(DIM, 10)
        self.optimizer = torch.optim.SGD([*self.body.parameters(), *self.head.parameters()], lr=0.05, momentum=0.9)
        self.epochs, self.epoch, self.step = epochs, 0, 0

    def batches(self) -> list[Any]:
        """The present epoch's batches of sample numbers."""
        order = torch.randperm(len(self.ids), generator=torch.Generator().manual_seed(SEED * 1000 + self.epoch))
        return list(order.split(BATCH))

    def learn(self, batch: Any) -> tuple[Any, Any]:
        """One step; gives the penultimate layer and the loss of each sample."""
        hidden = self.body(self.images[batch])
        losses = nn.functional.cross_entropy(self.head(hidden), self.labels[batch], reduction="none")
        self.optimizer.zero_grad()
        losses.mean().backward()
        self.optimizer.step()
        return hidden.detach(), losses.detach()

    def save(self, path: Path, mark: Any) -> None:
        """A checkpoint, with the store's mark in it; whole or not there."""
        state = {"body": self.body.state_dict(), "head": self.head.state_dict(), "rng": torch.get_rng_state(),
                 "optimizer": self.optimizer.state_dict(), "epoch": self.epoch, "step": self.step, "store": mark}
        torch.save(state, path.with_suffix(".half"))
        os.replace(path.with_suffix(".half"), path)

    def load(self, path: Path) -> Any:
        """Continue from a checkpoint; gives the store's mark."""
        state = torch.load(path, weights_only=True)
        self.body.load_state_dict(state["body"])
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        self.epoch, self.step = state["epoch"], state["step"]
        return state["store"]


def say(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def record(training: Training, writer: zstore.Writer, checkpoint: Path | None) -> dict[str, float]:
    """Train to the end, recording; with ``checkpoint``, as a run that is about to be killed. Gives what it cost."""
    appends, steps = [], []
    halfway = (training.epochs - 1) // 2
    while training.epoch < training.epochs:
        batches = training.batches()
        while training.step < len(batches):
            batch = batches[training.step]
            begin = time.perf_counter()
            hidden, losses = training.learn(batch)
            learned = time.perf_counter()
            writer.append([training.ids[n] for n in batch.tolist()], hidden, epoch=training.epoch,
                          label=training.labels[batch], loss=losses)
            appends.append(time.perf_counter() - learned)
            steps.append(learned - begin)
            training.step += 1
            if checkpoint is not None:
                provoke(training, writer, checkpoint, halfway, len(batches))
        writer.commit(meta={"epoch": training.epoch})
        training.epoch, training.step = training.epoch + 1, 0
    return {"append_us": statistics.median(appends) * 1e6, "step_us": statistics.median(steps) * 1e6}


def provoke(training: Training, writer: zstore.Writer, checkpoint: Path, halfway: int, steps: int) -> None:
    """Checkpoint in the middle of one epoch; in the middle of the next one, with commits past it, stand in the way."""
    if (training.epoch, training.step) == (halfway, steps // 2):
        mark = writer.state_dict()
        assert mark is not None       # rows were appended
        training.save(checkpoint, mark)
        say("checkpoint", epoch=training.epoch, step=training.step, version=mark["version"])
    elif (training.epoch, training.step) == (halfway + 1, steps // 3):
        commit = writer.commit()
        assert commit is not None
        say("committed", version=commit.version, rows=commit.rows)
    elif (training.epoch, training.step) == (halfway + 1, steps // 2):
        say("kill me", epoch=training.epoch, step=training.step)
    elif training.epoch == halfway + 1 and training.step > steps // 2:
        time.sleep(SLOW_STEP_S)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--checkpoint", type=Path, help="write it here, and expect to be killed")
    parser.add_argument("--resume", type=Path, help="the checkpoint to go on from")
    args = parser.parse_args(argv)
    training = Training(args.epochs)
    with zstore.Writer(args.store, codec="raw", rows_per_shard=ROWS_PER_SHARD) as writer:
        if args.resume is not None:
            writer.load_state_dict(training.load(args.resume))
            say("resumed", epoch=training.epoch, step=training.step)
        cost = record(training, writer, args.checkpoint)
    say("done", **cost)


if __name__ == "__main__":
    main(sys.argv[1:])
