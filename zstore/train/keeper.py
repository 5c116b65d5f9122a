"""What a framework's callbacks share: a recorder that is theirs or the user's, and where in a batch its ids are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

from zstore.notices import warn
from zstore.train.recorder import Recorder
from zstore.train.start import EMPTY

Where = str | int | Callable[[Any], Any]


class Keeper:
    """The recorder of a callback: one that was given stays its owner's to close; for a URL it is opened and closed here."""

    def __init__(self, store: Recorder | str | os.PathLike[str]) -> None:
        self._given = store if isinstance(store, Recorder) else None
        self._url = self._given.url if self._given is not None else os.fspath(store)        # type: ignore[arg-type]
        self.recorder: Recorder | None = None
        self.mark: dict[str, Any] | None = None     # where the last run of the trainer ended

    def open(self, start: Literal["over", "continue"]) -> Recorder:
        """``start``: for a first run; a second fit of the same trainer goes on behind the first."""
        if self.recorder is None:
            self.recorder = self._given or Recorder(self._url, start="continue" if self.mark is not None else start)
        return self.recorder

    def end(self) -> None:
        """Commit; close what is ours."""
        recorder, self.recorder = self.recorder, None
        if recorder is not None:
            self.mark = recorder.state_dict()
            ours(recorder)
            if self._given is None:
                recorder.close()

    def end_after(self, error: BaseException) -> None:
        """The same while ``error`` ends the run; a failure on top of it is only told."""
        recorder = self.recorder
        try:
            self.end()
        except Exception as second:
            warn(f"{self._url}: after {type(error).__name__}, not all rows were committed: {second}")
            if recorder is not None and self._given is None:
                self.mark = self.mark or dict(EMPTY)


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
