"""What a Lightning checkpoint lacks to resume bit for bit: the place in the data, and the random generators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from zstore.train.rng import restore_rng
from zstore.train.sampler import ResumableSampler, sample_seed
from zstore.train.state import TrainState

KEY = "zstore.resume"


class ExactResume(Callback):        # type: ignore[misc]
    """Lets a fit with ``ckpt_path=`` go on as if it had never stopped, in the middle of an epoch too.

    ::

        sampler = ResumableSampler(dataset, seed=1)
        trainer = Trainer(callbacks=[RecorderCallback("runs/a.zarr", "encoder", ids="id"), ExactResume(sampler)])
        trainer.fit(model, DataLoader(dataset, batch_size=32, sampler=sampler), ckpt_path="last")

    Without it Lightning gives a resumed epoch the first batches again, and never the last ones; and a checkpoint of its own
    holds no random state, so that dropout differs. It still warns of a dataloader that is "not resumable": it looks at the
    loader alone, and does not know the sampler's place.

    Loaders without a ``generator=`` are given one, so that to begin iterating them draws nothing from the global generator.
    Worker processes' own generators begin anew: let a dataset be random by ``sampler.sample_seed(index)``. Gradients that
    wait for their step are kept. A fit without a checkpoint begins its epoch at the start, wherever an earlier one left the
    sampler.

    Parameters
    ----------
    sampler : ResumableSampler
        The training loader's.
    extra : mapping, optional
        What else to carry, as ``TrainState`` takes it: generators, modules beside the LightningModule.
    """

    def __init__(self, sampler: ResumableSampler, *, extra: Mapping[str, Any] | None = None) -> None:
        self._sampler, self._state = sampler, TrainState(sampler=sampler, extra=extra)
        # Loaded, and restored when all is set up.
        self._rng: dict[str, Any] | None = None
        self._gradients: dict[str, Any] = {}

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._rng, self._gradients = None, {}
        if stage == "fit":
            # Not later: workers begin to fetch before on_train_start. A checkpoint's place is loaded behind this.
            self._sampler.epoch, self._sampler.position = trainer.current_epoch, 0

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        state = self._state.state_dict()
        # A ModelCheckpoint that has resumed may save between two optimizer steps, and Lightning keeps no gradients.
        if trainer.fit_loop._should_accumulate():
            state["gradients"] = {name: value.grad for name, value in pl_module.named_parameters() if value.grad is not None}
        checkpoint[KEY] = state

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit" or KEY not in checkpoint:
            return
        self._state.load_state_dict(checkpoint[KEY])
        self._rng, self._gradients = checkpoint[KEY]["rng"], checkpoint[KEY].get("gradients", {})
        if self._sampler.position >= self._sampler.length:
            # Loader workers begin to fetch before Lightning names the epoch.
            self._sampler.set_epoch(self._sampler.epoch + 1)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        train, validation = loaders(trainer.train_dataloader), loaders(trainer.val_dataloaders)
        self._check(train)
        for loader in [*train, *validation]:
            if loader.generator is None:
                loader.generator = torch.Generator().manual_seed(sample_seed(self._sampler.seed, 0, "workers"))
        for name, value in pl_module.named_parameters():
            if name in self._gradients:
                value.grad = self._gradients[name].to(value.device).clone()
        self._gradients = {}
        # The last thing before the next batch is fetched: to set up the loaders has drawn from it.
        rng, self._rng = self._rng, None
        if rng is not None:
            restore_rng(rng)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        size = loaders(trainer.train_dataloader)[0].batch_size
        self._sampler.position = min(self._sampler.position + size, self._sampler.length)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._sampler.position = self._sampler.length       # also where limit_train_batches ended it

    def _check(self, train: list[Any]) -> None:
        if len(train) != 1 or train[0].sampler is not self._sampler or not isinstance(train[0].batch_size, int):
            raise ValueError("ExactResume(sampler) needs the sampler in the one training loader: "
                             "DataLoader(dataset, batch_size=, sampler=sampler)")


def loaders(given: Any) -> list[Any]:
    """The DataLoaders among what Lightning was given: one, or a collection of them."""
    if isinstance(given, DataLoader):
        return [given]
    values = given.values() if isinstance(given, Mapping) else given if isinstance(given, (list, tuple)) else ()
    return [loader for value in values for loader in loaders(value)]
