"""What a Lightning model predicts, as rows of a store."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from lightning.pytorch.callbacks import BasePredictionWriter

from zstore.train.keeper import Keeper, Where, find, one_process
from zstore.train.recorder import Recorder


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

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "predict":
            one_process(trainer.world_size)

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
