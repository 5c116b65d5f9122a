"""Lightning: record while its Trainer trains, and store what it predicts. ``pip install 'zstore[lightning]'``."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from typing import Any, Literal

from zstore.errors import MissingExtra
from zstore.notices import warn
from zstore.train.capture import Watched
from zstore.train.keeper import Keeper, Where, find, one_process, ours
from zstore.train.recorder import Recorder
from zstore.train.start import head_mark
from zstore.view_coverage import Coverage

try:
    from lightning.pytorch.callbacks import Callback

    from zstore.train.lightning_predict import PredictionWriter
    from zstore.train.lightning_resume import ExactResume
except ImportError as error:
    raise MissingExtra("zstore.train.lightning needs lightning: pip install 'zstore[lightning]'") from error

__all__ = ["ExactResume", "PredictionWriter", "RecorderCallback"]

KEY = "zstore"      # of the marks in a Lightning checkpoint


class RecorderCallback(Callback):       # type: ignore[misc]
    """Records what a submodule of the LightningModule gives for each sample of each training batch.

    Parameters
    ----------
    store : str, path or Recorder
        Where to. For a URL the callback opens a Recorder at the start of a fit and closes it at its end; a Recorder, with
        options of its own, stays yours to close.
    module : str or mapping of field to str, optional
        The submodule to watch, as ``model.get_submodule`` knows it: "encoder"; several are several fields of one row:
        ``{"vectors": "encoder", "logits": "head"}``. Without it, watch yourself: ``recorder.watch(model.encoder, ...)``.
    ids : str, int or callable
        Where the batch holds the samples' ids: a key, a position, or a function of the batch.
    fields : mapping of name to str, int or callable, optional
        What else of the batch to record in each row: ``{"label": 1}``.
    expected : optional
        The ids of an epoch, or their number for 0..n-1; ``coverage[epoch]`` then names what is missing.
    stage : {"train", "validate", "test"}
        Whose batches; the others, sanity checks too, leave no row. For two stages take two callbacks and two stores. A second
        validation in an epoch (``val_check_interval=0.5``) has the first one's keys: ``latest()`` gives the second's rows, and
        coverage says "twice".

    Rows have ``epoch=trainer.current_epoch`` and ``step=trainer.global_step``: the optimizer steps taken before the row's own.
    Checkpoints carry the store's mark, and a fit with ``ckpt_path=`` takes the store back to it. A checkpoint without one
    goes by the rows' steps, and says so.

    A callback is for one Trainer, in one process. Its second fit goes on behind the first. Another Trainer counts its epochs
    from 0 again and is refused (ValueError): give it a callback of its own, which starts its store over.
    """

    def __init__(self, store: Recorder | str | os.PathLike[str], module: str | Mapping[str, str] | None = None, *, ids: Where,
                 fields: Mapping[str, Where] | None = None, expected: Any = None,
                 stage: Literal["train", "validate", "test"] = "train") -> None:
        if stage not in ("train", "validate", "test"):
            raise ValueError(f"stage must be one of 'train', 'validate', 'test', not {stage!r}")
        if module is None and not isinstance(store, Recorder):
            raise ValueError("name the submodule to record, RecorderCallback(url, \"encoder\", ids=...), or give a Recorder "
                             "that watches")
        self._keeper = Keeper(store)
        self._modules = {"vectors": module} if isinstance(module, str) else dict(module or {})
        self._ids, self._fields = ids, dict(fields or {})
        self._expected, self._stage = expected, stage
        self._trainer: weakref.ref[Any] | None = None
        self._watching: list[tuple[Any, Watched]] = []      # our modules, in this run
        self._idle = self._busy = 0             # batches of the epoch in which none of them ran, and the others
        self._batch: Any = None                 # the open recorder.batch
        self._processed = 0                     # training batches, when it was opened
        self.coverage: dict[int, Coverage] = {}

    @property
    def recorder(self) -> Recorder | None:
        """The recorder in use; None outside a fit."""
        return self._keeper.recorder

    # -- a run of the trainer ----------------------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        # Before configure_model, so that hooks are there when it compiles; what it makes is watched in on_fit_start.
        if self._runs_in(stage):
            one_process(trainer.world_size)
            if self._keeper.begun and (self._trainer is None or self._trainer() is not trainer):
                raise ValueError("this RecorderCallback has recorded for another Trainer, and this one's epochs begin at 0 "
                                 "again, so each row's key would come twice; give each Trainer a RecorderCallback of its own")
            self._trainer, self._idle, self._busy = weakref.ref(trainer), 0, 0
            self._keeper.open("over" if stage == "fit" else "continue")
            if not self._missing(pl_module):
                self._watch(pl_module)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._watch(pl_module)

    on_validation_start = on_test_start = on_fit_start

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if self._runs_in(stage):
            self._abandon()
            self._unwatch()
            self._keeper.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._abandon()
        self._unwatch()
        self._keeper.end_after(exception)

    def _runs_in(self, stage: str) -> bool:
        return stage in {"train": ("fit",), "validate": ("fit", "validate"), "test": ("test",)}[self._stage]

    def _missing(self, pl_module: Any) -> list[str]:
        known = dict(pl_module.named_modules())
        return [name for name in self._modules.values() if name not in known]

    def _watch(self, pl_module: Any) -> None:
        recorder = self._keeper.recorder
        if recorder is None:
            return
        if missing := self._missing(pl_module):
            children = ", ".join(name for name, _ in pl_module.named_children())
            raise ValueError(f"RecorderCallback(module=...): {type(pl_module).__name__} has no submodule {missing[0]!r}; "
                             f"it has {children}")
        modules = [pl_module.get_submodule(name) for name in self._modules.values()]
        if self._watching and all(new is old for new, (old, _) in zip(modules, self._watching, strict=True)):
            return
        self._unwatch()     # configure_model may have made others
        for module, (field, name) in zip(modules, self._modules.items(), strict=True):
            watched = recorder.watch(module, field=field)
            watched.name = f"{type(pl_module).__name__}.{name}"
            self._watching.append((module, watched))
        ours(recorder)

    def _unwatch(self) -> None:
        for _, watched in self._watching:
            watched.remove()
        self._watching = []

    # -- batches -----------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._stage == "train":
            self._begin(trainer, batch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._stage == "train":
            self._finish(skipped=not outputs)       # a dict, empty where training_step gave None

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self._stage == "train":
            self._end_epoch(trainer)

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int,
                                  dataloader_idx: int = 0) -> None:
        if self._stage == "validate" and not trainer.sanity_checking:
            self._begin(trainer, batch)

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int,
                                dataloader_idx: int = 0) -> None:
        if self._stage == "validate":
            self._finish()

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self._stage == "validate" and not trainer.sanity_checking:
            self._end_epoch(trainer)

    def on_test_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if self._stage == "test":
            self._begin(trainer, batch)

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int,
                          dataloader_idx: int = 0) -> None:
        if self._stage == "test":
            self._finish()

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self._stage == "test":
            self._end_epoch(trainer)

    def _begin(self, trainer: Any, batch: Any) -> None:
        recorder = self._keeper.recorder
        assert recorder is not None
        self._abandon()     # of a batch that a hook skipped
        ids = find("RecorderCallback(ids=...)", self._ids, batch)
        fields = {name: find(f"RecorderCallback(fields={{{name!r}: ...}})", where, batch)
                  for name, where in self._fields.items()}
        self._batch = recorder.batch(ids, epoch=trainer.current_epoch, step=trainer.global_step, **fields)
        self._processed = _processed(trainer)
        self._batch.__enter__()

    def _finish(self, skipped: bool = False) -> None:
        if self._batch is None:
            return
        if skipped and not self._ran():
            # Lightning's way to skip a batch, or manual optimization, of which the result says nothing.
            self._idle += 1
            self._abandon()
            return
        batch, self._batch = self._batch, None
        batch.__exit__(None, None, None)
        self._busy += 1

    def _ran(self) -> bool:
        """A watched module did, in the open batch."""
        recorder = self._keeper.recorder
        return recorder is not None and any(watched.outputs for watched in recorder._watched)

    def _abandon(self) -> None:
        """Leave an open batch without recording it."""
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.__exit__(GeneratorExit, GeneratorExit(), None)

    def _end_epoch(self, trainer: Any) -> None:
        recorder = self._keeper.recorder
        assert recorder is not None
        self._abandon()
        idle, self._idle, self._busy = 0 if self._busy else self._idle, 0, 0
        # A fit may be resumed behind its epoch's last batch, with the store not rolled back yet: nothing to say then.
        if recorder.recorded:
            self.coverage[trainer.current_epoch] = recorder.end_epoch(trainer.current_epoch, expected=self._expected)
        if idle:
            names = ", ".join(watched.name for watched in recorder._watched)
            warn(f"{recorder.url}: {names} never ran in the {idle} batches of epoch {trainer.current_epoch}, so none of their "
                 "rows is recorded; name a submodule that training_step calls")

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        recorder = self._keeper.recorder
        if self._batch is not None and self._stage == "train" and _processed(trainer) > self._processed and self._ran():
            self._finish()          # another callback saves at this batch's end, and its hook is called before ours
        mark = self._keeper.mark if recorder is None else recorder.state_dict()
        if mark is not None:
            checkpoint.setdefault(KEY, {})[self._name(trainer)] = mark

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        recorder = self._keeper.recorder
        if recorder is None or trainer.state.fn != "fit":
            return      # weights for an evaluation: the rows stay
        mark = checkpoint.get(KEY, {}).get(self._name(trainer))
        if recorder.recorded:
            # LRFinder and BatchSizeFinder put back what they saved a moment ago, in the middle of a fit too.
            if mark != recorder.state_dict():
                raise ValueError(f"{recorder.url}: rows were recorded since this checkpoint was saved, and this recorder can't "
                                 "go back behind them: give each fit a Recorder of its own, or the callback the store's URL")
        elif mark is not None:
            recorder.load_state_dict(mark)
        elif head_mark(recorder.url, recorder._storage_options())["version"]:
            # The rows' step counts what was done before them: those of the checkpoint's own step came after it.
            recorder.load_step(checkpoint["global_step"] - 1)
        else:
            warn(f"{recorder.url}: the checkpoint was saved without a recorder, so rows begin at step "
                 f"{checkpoint['global_step']}")

    def _name(self, trainer: Any) -> str:
        """Ours among the marks of a checkpoint."""
        return str([callback for callback in trainer.callbacks if isinstance(callback, RecorderCallback)].index(self))


def _processed(trainer: Any) -> int:
    """Training batches whose step is done."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.processed)
