"""Lightning: record while its Trainer trains, and store what it predicts. ``pip install 'zstore[lightning]'``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

from zstore.errors import MissingExtra
from zstore.notices import warn
from zstore.train.keeper import Keeper, Where, find, ours
from zstore.train.recorder import Recorder
from zstore.train.start import head_mark
from zstore.view_coverage import Coverage

try:
    from lightning.pytorch.callbacks import BasePredictionWriter, Callback

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
        Whose batches; the others, sanity checks too, leave no row. For two stages take two callbacks and two stores.

    Rows have ``epoch=trainer.current_epoch`` and ``step=trainer.global_step``: the optimizer steps taken before the row's own.
    Checkpoints carry the store's mark, and a fit with ``ckpt_path=`` takes the store back to it. A checkpoint without one
    goes by the rows' steps, and says so.
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
        self._watching: set[int] = set()        # ids of modules: a second fit with the same recorder watches already
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
            self._keeper.open("over" if stage == "fit" else "continue")
            if not self._missing(pl_module):
                self._watch(pl_module)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._watch(pl_module)

    on_validation_start = on_test_start = on_fit_start

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if self._runs_in(stage):
            self._abandon()
            self._keeper.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._abandon()
        self._keeper.end_after(exception)

    def _runs_in(self, stage: str) -> bool:
        return stage in {"train": ("fit",), "validate": ("fit", "validate"), "test": ("test",)}[self._stage]

    def _missing(self, pl_module: Any) -> list[str]:
        known = dict(pl_module.named_modules())
        return [name for name in self._modules.values() if name not in known]

    def _watch(self, pl_module: Any) -> None:
        recorder = self._keeper.recorder
        if recorder is None or id(recorder) in self._watching:
            return
        if missing := self._missing(pl_module):
            children = ", ".join(name for name, _ in pl_module.named_children())
            raise ValueError(f"RecorderCallback(module=...): {type(pl_module).__name__} has no submodule {missing[0]!r}; "
                             f"it has {children}")
        for field, name in self._modules.items():
            recorder.watch(pl_module.get_submodule(name), field=field)
        ours(recorder)
        self._watching = {id(recorder)}

    # -- batches -----------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._stage == "train":
            self._begin(trainer, batch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._stage == "train":
            self._finish(outputs)

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
            self._finish(outputs)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self._stage == "validate" and not trainer.sanity_checking:
            self._end_epoch(trainer)

    def on_test_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if self._stage == "test":
            self._begin(trainer, batch)

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int,
                          dataloader_idx: int = 0) -> None:
        if self._stage == "test":
            self._finish(outputs)

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

    def _finish(self, outputs: Any) -> None:
        if self._batch is None:
            return
        recorder = self._keeper.recorder
        assert recorder is not None
        if not outputs and not any(watched.outputs for watched in recorder._watched):
            self._abandon()     # training_step gave None before it came to the model: Lightning's way to skip a batch
            return
        batch, self._batch = self._batch, None
        batch.__exit__(None, None, None)

    def _abandon(self) -> None:
        """Leave an open batch without recording it."""
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.__exit__(GeneratorExit, GeneratorExit(), None)

    def _end_epoch(self, trainer: Any) -> None:
        recorder = self._keeper.recorder
        assert recorder is not None
        self._abandon()
        # A fit may be resumed behind its epoch's last batch, with the store not rolled back yet: nothing to say then.
        if recorder.recorded:
            self.coverage[trainer.current_epoch] = recorder.end_epoch(trainer.current_epoch, expected=self._expected)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        recorder = self._keeper.recorder
        if self._batch is not None and self._stage == "train" and _processed(trainer) > self._processed:
            self._finish(True)      # another callback saves at this batch's end, and its hook is called before ours
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


class PredictionWriter(BasePredictionWriter):       # type: ignore[misc]
    """Stores what ``predict_step`` gives, under the samples' ids, or their indices in the dataset.

    Parameters
    ----------
    store : str, path or Recorder
        As for RecorderCallback. Rows that the store holds stay; one of the same id and epoch takes an earlier one's place.
    ids : str, int or callable, optional
        Where the batch holds the ids; without it, the indices of the dataset that Lightning gives.
    select : callable, optional
        ``select(prediction)`` gives the (n, ...) tensor, where the prediction is something else.
    epoch : int
        Of all rows: which model they come from.
    """

    def __init__(self, store: Recorder | str | os.PathLike[str], *, ids: Where | None = None,
                 select: Callable[[Any], Any] | None = None, epoch: int = 0) -> None:
        super().__init__("batch")
        self._keeper = Keeper(store)
        self._ids, self._select, self._epoch = ids, select, epoch

    def write_on_batch_end(self, trainer: Any, pl_module: Any, prediction: Any, batch_indices: Any, batch: Any, batch_idx: int,
                           dataloader_idx: int) -> None:
        vectors = prediction if self._select is None else self._select(prediction)
        if not hasattr(vectors, "shape"):
            raise TypeError(f"predict_step gives a {type(vectors).__name__}, not a tensor: say which part to store, "
                            "PredictionWriter(select=lambda prediction: ...)")
        ids = batch_indices if self._ids is None else find("PredictionWriter(ids=...)", self._ids, batch)
        if self._ids is None and dataloader_idx:
            raise ValueError("with several dataloaders an index names no sample: return ids in the batch, and "
                             "PredictionWriter(ids=...)")
        if ids is None or not len(ids):
            raise ValueError("Lightning knows no indices of these samples (an iterable dataset?): return ids in the batch, and "
                             "PredictionWriter(ids=...)")
        self._keeper.open("continue").append(ids, vectors, epoch=self._epoch)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._keeper.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._keeper.end_after(exception)


def _processed(trainer: Any) -> int:
    """Training batches whose step is done."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.processed)
