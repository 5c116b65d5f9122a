"""The ways to keep the vectors of a training step that ``finetune`` compares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contender import BY_US, sync_file_system

DIM = 384


class Way:
    """One way to keep a step's vectors: ``begin`` before the forward pass, ``keep`` behind it. Their time is what the training
    thread pays."""

    durability = "-"

    def begin(self, ids: list[str], epoch: int, step: int) -> None:
        """Whose vectors come next."""

    def keep(self, ids: list[str], epoch: int, vectors: Any) -> None:
        """(n, DIM), on the model's device, in the graph."""

    def commit(self) -> None:
        """At the end of a turn."""

    def read(self) -> Any:
        """All rows, in the order in which they came; None of a way that keeps nothing. Closes it."""
        return None


class ZStore(Way):
    """As the guide says: watch, and a batch around the forward pass."""

    durability = "its own fsync, at commits"

    def __init__(self, folder: str, encoder: Any, batch: int) -> None:
        from zstore.train import Recorder
        self._recorder = Recorder(f"{folder}/zstore.zarr")
        self._recorder.watch(encoder, select=lambda vectors: vectors[:batch])

    def begin(self, ids: list[str], epoch: int, step: int) -> None:
        self._batch = self._recorder.batch(ids, epoch=epoch, step=step)
        self._batch.__enter__()

    def keep(self, ids: list[str], epoch: int, vectors: Any) -> None:
        self._batch.__exit__(None, None, None)

    def commit(self) -> None:
        self._recorder.commit()

    def read(self) -> Any:
        import zstore
        self._recorder.close()
        with zstore.Reader(self._recorder.url) as head:
            return np.array(head.vectors)


class Files(Way):
    """``np.save`` of each step's vectors, one file each."""

    durability = BY_US

    def __init__(self, folder: str, encoder: Any, batch: int) -> None:
        self._folder, self._count = Path(folder) / "files", 0
        self._folder.mkdir()

    def keep(self, ids: list[str], epoch: int, vectors: Any) -> None:
        np.save(self._folder / f"{self._count:08d}.npy", vectors.detach().cpu().numpy())
        self._count += 1

    def commit(self) -> None:
        sync_file_system(str(self._folder))

    def read(self) -> Any:
        return np.concatenate([np.load(path) for path in sorted(self._folder.iterdir())])


class Peer(Way):
    """A contender of the other scenarios."""

    def __init__(self, name: str, folder: str) -> None:
        from benchmarks import contenders
        from benchmarks.data import Data
        data = Data(np.zeros((1, DIM), np.float32), 1, DIM)
        self._peer = contenders.make(name, f"{folder}/{name.split(',')[0]}", data)
        self.durability = self._peer.durability
        self._peer.create()

    def keep(self, ids: list[str], epoch: int, vectors: Any) -> None:
        self._peer.append(ids, epoch, vectors.detach().cpu().numpy())

    def commit(self) -> None:
        self._peer.commit()

    def read(self) -> Any:
        try:
            self._peer.finish()
            self._peer.open()
            return np.concatenate([np.array(block) for block in self._peer.scan()])
        finally:
            self._peer.close()


WAYS: dict[str, Callable[[str, Any, int], Way]] = {
    "none": lambda folder, encoder, batch: Way(),
    "zstore": ZStore,
    "np.save per step": Files,
    "zarr append": lambda folder, encoder, batch: Peer("zarr-python, append per batch", folder),
    "Redis": lambda folder, encoder, batch: Peer("Redis, append-only file", folder),
}
