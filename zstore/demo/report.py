"""The demo's reader: a new process that knows the store's place and nothing else."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import zstore
from zstore._typing import Array

NEIGHBOURS = 5


@dataclass(frozen=True)
class Epoch:
    """What one epoch's matrix shows; rows are in the order in which they were appended."""

    ids: Array
    vectors: Array
    labels: Array
    nearest: Array      # (n, NEIGHBOURS) rows, nearest first

    @property
    def accuracy(self) -> float:
        """The share of samples whose nearest neighbour, itself left out, is of their class."""
        return float(np.mean(self.labels[self.nearest[:, 0]] == self.labels))

    def row(self, name: str) -> int:
        return int(np.flatnonzero(self.ids == name)[0])

    def votes(self, row: int) -> Array:
        """The classes of a row's nearest neighbours, nearest first."""
        classes: Array = self.labels[self.nearest[row]]
        return classes


def look(view: zstore.View) -> Epoch:
    vectors = view.vectors
    square = np.einsum("ij,ij->i", vectors, vectors)
    distance = square[:, None] + square - 2 * (vectors @ vectors.T)
    np.fill_diagonal(distance, np.inf)
    few = np.argpartition(distance, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    order = np.argsort(np.take_along_axis(distance, few, axis=1), axis=1, kind="stable")
    return Epoch(view.ids, vectors, np.asarray(view.field("label")), np.take_along_axis(few, order, axis=1))


def majority(classes: Array) -> int:
    """The commonest class; of equally common ones the nearest neighbour's."""
    counts = np.bincount(classes, minlength=10)
    return int(next(c for c in classes if counts[c] == counts.max()))


def most_travelled(epochs: Mapping[int, Epoch]) -> str:
    """The sample with a story: among strangers for the most epochs, at home in the last."""
    last = epochs[max(epochs)]
    lost: dict[str, int] = dict.fromkeys((str(i) for i in last.ids), 0)
    for epoch in epochs.values():
        astray = [majority(votes) != own for votes, own in zip(epoch.labels[epoch.nearest], epoch.labels, strict=True)]
        for name in epoch.ids[np.array(astray)]:
            lost[str(name)] += 1
    home = [str(name) for row, name in enumerate(last.ids) if majority(last.votes(row)) == last.labels[row]]
    return min(home or lost, key=lambda name: (-lost[name], name))


def path_lines(run: zstore.Reader, epochs: Mapping[int, Epoch], name: str) -> list[str]:
    """One line per epoch of one sample: how far its vector turned, and whom it stands among."""
    numbers = sorted(epochs)
    path: Array = run.get(name, epoch=numbers)                     # (epochs, dim)
    unit = path / np.linalg.norm(path, axis=1, keepdims=True)
    lines = []
    for place, number in enumerate(numbers):
        epoch = epochs[number]
        row = epoch.row(name)
        votes, own = epoch.votes(row), int(epoch.labels[row])
        moved = "     " if place == 0 else f"{1 - float(unit[place] @ unit[place - 1]):5.3f}"
        found = majority(votes)
        lines.append(f"  epoch {number:2d}   moved {moved}   among {' '.join(map(str, votes))}   "
                     f"taken for {found}{'' if found == own else f', is {own}'}")
    return lines


def accuracy_lines(epochs: Mapping[int, Epoch]) -> list[str]:
    low = min(epoch.accuracy for epoch in epochs.values())
    scale = 30 / max(1 - low, 1e-9)
    return [f"  epoch {number:2d}   {epoch.accuracy:6.1%}   {'█' * round(2 + (epoch.accuracy - low) * scale)}"
            for number, epoch in sorted(epochs.items())]


def size_of(folder: str) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def report(store: str, picture: str, facts: str) -> None:
    """Print what the store shows, draw it to ``picture``, and leave the numbers in ``facts`` as JSON."""
    zstore.Reader      # noqa: B018  imported here, so that the time is that of opening
    begin = time.perf_counter()
    run = zstore.Reader(store)
    opened = time.perf_counter() - begin
    size = size_of(store)
    print(f"rows: {len(run):,} at version {run.version}, opened in {opened * 1e3:.1f} ms")
    print(f"size on disk: {size / 1e6:.2f} MB for {run.vectors.nbytes / 1e6:.2f} MB of vectors, "
          "with ids, epochs, labels, losses, index and history")
    begin = time.perf_counter()
    epochs = {number: look(run.epoch(number)) for number in map(int, run.epochs)}
    print(f"nearest-neighbour accuracy, leave one out, from the mapping ({time.perf_counter() - begin:.1f} s):")
    print("\n".join(accuracy_lines(epochs)))
    name = most_travelled(epochs)
    print(f"the path of {name} (moved: cosine distance from the epoch before; its {NEIGHBOURS} nearest neighbours):")
    print("\n".join(path_lines(run, epochs, name)), flush=True)
    _draw(picture, epochs, name)
    print(f"picture: {picture}")
    Path(facts).write_text(json.dumps({
        "rows": len(run), "version": run.version, "bytes": size, "sample": name, "picture": picture,
        "accuracy": {number: epoch.accuracy for number, epoch in epochs.items()}}), encoding="utf-8")


def _draw(picture: str, epochs: Mapping[int, Epoch], name: str) -> None:
    # matplotlib takes a second to import: the numbers come first.
    from zstore.demo.picture import draw

    facts: dict[str, dict[int, Any]] = {"vectors": {}, "labels": {}, "accuracy": {}, "traced": {}}
    for number, epoch in epochs.items():
        facts["vectors"][number], facts["labels"][number] = epoch.vectors, epoch.labels
        facts["accuracy"][number], facts["traced"][number] = epoch.accuracy, epoch.row(name)
    draw(Path(picture), facts["vectors"], facts["labels"], facts["accuracy"], facts["traced"], name)


if __name__ == "__main__":
    report(*sys.argv[1:])
