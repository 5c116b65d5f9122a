"""An order of samples that is a function of (seed, epoch), and can be taken up in its middle."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import Sampler

from zstore.notices import warn


def sample_seed(seed: int, epoch: int, sample: int | str) -> int:
    """A seed for what is random about one sample in one epoch (its crop, its noise): 63 bits, the same in every process, in
    any order of the samples, and on every machine."""
    key = f"{int(seed)} {int(epoch)} {sample}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


class ResumableSampler(Sampler[int]):      # type: ignore[misc]     # torch is skipped
    """Indices of a dataset, shuffled by (seed, epoch) alone; no global generator is touched.

    ::

        loader = DataLoader(dataset, batch_size=32, sampler=sampler, num_workers=2)
        for epoch in range(state.epoch, 3):
            for batch in sampler.batches(loader, epoch):
                ...

    ``position`` is how many samples of the epoch the loop was handed, not how many workers fetched ahead: only the loop
    knows that. ``batches`` counts it. A loop that iterates the loader itself calls ``set_epoch(epoch)`` before each epoch
    and adds to ``position`` what it was handed; iteration begins at ``position``.

    Parameters
    ----------
    data : int or sized
        The dataset, or its length.
    seed : int
        Of the order, and of ``sample_seed``.
    shuffle : bool
        False: 0, 1, 2, ... in each epoch.
    """

    def __init__(self, data: Any, *, seed: int, shuffle: bool = True) -> None:
        self.length = data if isinstance(data, int) else len(data)
        self.seed, self.shuffle = int(seed), shuffle
        self.epoch = self.position = 0
        self._loader: dict[str, Any] = {}       # how the loader was set up that the position counts batches of
        self._resumed = False                   # the position was loaded, and no batch was handed out since

    def __len__(self) -> int:
        """The whole epoch's length, wherever it stands: the last batch is in hand when ``position`` reaches it."""
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self.epoch)[self.position:])

    def order(self, epoch: int) -> list[int]:
        """The whole order of an epoch."""
        if not self.shuffle:
            return list(range(self.length))
        generator = torch.Generator().manual_seed(sample_seed(self.seed, epoch, "order"))
        order: list[int] = torch.randperm(self.length, generator=generator).tolist()
        return order

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch's start; the present epoch goes on where it stands."""
        if epoch != self.epoch:
            self.epoch, self.position, self._resumed = int(epoch), 0, False

    def sample_seed(self, sample: int | str) -> int:
        """``sample_seed`` of this seed and epoch: for a dataset that holds the sampler. Workers know the epoch that they were
        started in, so leave ``persistent_workers`` off."""
        return sample_seed(self.seed, self.epoch, sample)

    def batches(self, loader: Any, epoch: int) -> Iterator[Any]:
        """What is left of an epoch, batch by batch, as the loader gives them; a batch counts as soon as the loop has it.

        ``loader`` has this sampler and a ``batch_size``. To begin iterating a DataLoader draws a seed for its workers from
        the global generator, a second time in a run that is resumed; here that seed, too, is a function of (seed, epoch)."""
        size = self._check(loader)
        self.set_epoch(epoch)
        if self.position >= self.length and not self._resumed:
            raise ValueError(f"epoch {epoch} was handed out already; the next is {epoch + 1}")
        loader.generator, own = torch.Generator().manual_seed(sample_seed(self.seed, epoch, "workers")), loader.generator
        try:
            handed = iter(loader)
        finally:
            loader.generator = own
        for batch in handed:
            self.position, self._resumed = min(self.position + size, self.length), False
            yield batch
        self.position = self.length

    def state_dict(self) -> dict[str, Any]:
        """Plain values: the place, and what it is a place in."""
        return {"epoch": self.epoch, "position": self.position, "length": self.length, "seed": self.seed,
                "shuffle": self.shuffle, "loader": dict(self._loader)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on there. ValueError where the order would be another one: other data, seed or shuffle."""
        for name in ("length", "seed", "shuffle"):
            if state[name] != getattr(self, name):
                raise ValueError(f"the checkpoint's sampler has {name} {state[name]}, and this one {getattr(self, name)}, so "
                                 "its place means nothing here; make the sampler as it was")
        self.epoch, self.position = state["epoch"], state["position"]
        self._loader, self._resumed = dict(state["loader"]), True

    def _check(self, loader: Any) -> int:
        if not isinstance(getattr(loader, "batch_size", None), int):
            raise ValueError("the loader has no batch_size, so what it hands out can't be counted: DataLoader(batch_size=, "
                             "sampler=), or add to sampler.position what your loop is handed")
        if loader.sampler is not self:
            raise ValueError("the loader has another sampler: DataLoader(dataset, sampler=sampler)")
        if not getattr(loader, "in_order", True):
            raise ValueError("the loader has in_order=False, so which samples it handed out can't be known: leave it out")
        now = {"batch_size": loader.batch_size, "num_workers": loader.num_workers}
        then, self._loader = self._loader, now
        changed = [f"{name} {then[name]} then, {value} now" for name, value in now.items() if then.get(name, value) != value]
        if changed:
            warn(f"the loader was set up another way in the checkpoint's run, so batches may differ: {'; '.join(changed)}")
        return int(loader.batch_size)
