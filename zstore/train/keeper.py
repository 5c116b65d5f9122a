"""What a framework's callbacks share: a recorder that is theirs or the user's, and where in a batch its ids are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

from zstore.notices import warn
from zstore.train.recorder import Recorder

Where = str | int | Callable[[Any], Any]


class Keeper:
    """The recorder of a callback: one that was given stays its owner's to close; for a URL it is opened and closed here.

    It serves one trainer, run after run: rows of a second fit go behind those of the first, as the trainer's epochs do.
    Another trainer counts its epochs from 0 again, so that each key would come twice: it wants a keeper of its own.
    """

    def __init__(self, store: Recorder | str | os.PathLike[str]) -> None:
        self._given = store if isinstance(store, Recorder) else None
        self._url = self._given.url if self._given is not None else os.fspath(store)        # type: ignore[arg-type]
        self.recorder: Recorder | None = None
        self.mark: dict[str, Any] | None = None     # where the last run of the trainer ended
        self._rows = False                          # a run recorded some, whether or not its end was committed

    @property
    def begun(self) -> bool:
        """The trainer's earlier runs have rows in the store."""
        return self._rows or bool(self.mark and self.mark["version"])

    def open(self, start: Literal["over", "continue"]) -> Recorder:
        """``start``: until the trainer has rows. Those stay."""
        if self.recorder is None:
            self.recorder = self._given or Recorder(self._url, start="continue" if self.begun else start)
        return self.recorder

    def end(self) -> None:
        """Commit; close what is ours."""
        recorder, self.recorder = self.recorder, None
        if recorder is not None:
            self._rows = self._rows or recorder.recorded > 0
            self.mark = recorder.state_dict()
            ours(recorder)
            if self._given is None:
                recorder.close()

    def end_after(self, error: BaseException) -> None:
        """The same while ``error`` ends the run; a failure on top of it is only told."""
        try:
            self.end()
        except Exception as second:
            warn(f"{self._url}: after {type(error).__name__}, not all rows were committed: {second}")


def one_process(count: int) -> None:
    """ValueError for a training of several: each would open the store."""
    if count > 1:
        raise ValueError(f"zstore records one process on one device, and this Trainer has {count}: Trainer(devices=1)")


def find(setting: str, where: Where, batch: Any) -> Any:
    """What a key, a position or a function finds in a batch. ValueError names the setting where there is nothing."""
    if callable(where):
        return where(batch)
    if isinstance(batch, (Mapping, list, tuple)):
        try:
            return batch[where]     # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            pass
    elif isinstance(where, str) and hasattr(batch, where):
        return getattr(batch, where)
    if isinstance(batch, Mapping):
        told = f"it has {', '.join(map(str, batch))}"
    else:
        told = f"it is a {type(batch).__name__}" + (f" of {len(batch)}" if isinstance(batch, (list, tuple)) else "")
    raise ValueError(f"{setting}: the batch has no {where!r} ({told}); let the dataset give each sample's id, and say where "
                     "the batch holds it: a key, a position, or a function of the batch")


def ours(recorder: Recorder) -> None:
    """Training forwards outside a batch are none that somebody forgot: tuners run the model, too, and other stages do."""
    for watched in recorder._watched:
        watched.unclaimed, watched._forgotten = 0, None
