"""Ids that ride beside the model's inputs: taken out of the samples before the collator, laid into the batch behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

KEY = "zstore_ids"      # in a batch: its ids; or, as a string, why there are none


class IdTaking:
    """A collator around the script's own, which never sees the ids; everything else of it shines through.

    With ``keep`` the batch carries them, for training. Without, they are only taken out, for evaluation: a
    sentence-transformers collator takes any column for a text."""

    def __init__(self, collate: Callable[[Any], Any], column: str, keep: bool) -> None:
        self.collate, self.column, self.keep = collate, column, keep

    def __call__(self, samples: Sequence[Any]) -> Any:
        if not all(isinstance(sample, Mapping) and self.column in sample for sample in samples):
            return self._laid(self.collate(samples), self._missing(samples[0]))
        ids = [sample[self.column] for sample in samples]
        batch = self.collate([{key: value for key, value in sample.items() if key != self.column} for sample in samples])
        return self._laid(batch, _plain(ids))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "collate":      # a copy in the making has no collator yet
            raise AttributeError(name)
        return getattr(self.collate, name)

    def _laid(self, batch: Any, ids: Any) -> Any:
        if self.keep and isinstance(batch, MutableMapping):
            batch[KEY] = ids
        return batch

    def _missing(self, sample: Any) -> str:
        if not isinstance(sample, Mapping):
            return (f"the training data gives samples of type {type(sample).__name__}, which cannot hold an id; let it give "
                    f"dicts with {self.column!r} among their keys")
        return (f"the samples reach the collator with {', '.join(map(repr, sample))} and without {self.column!r}. Where the "
                "data set has it, something on the way takes it out: set_format(columns=...) on the data set, or a Trainer "
                "subclass that removes columns (TrainingArguments(remove_unused_columns=False) keeps them). Where it has "
                "another name: attach(trainer, recorder, ids=\"name\")")


def _plain(ids: list[Any]) -> Any:
    """Ids as they wait best: whole numbers as one array, strings as a list."""
    ids = [number.item() if hasattr(number, "item") else number for number in ids]
    return np.array(ids, np.int64) if all(type(number) is int for number in ids) else ids
