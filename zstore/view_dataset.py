"""``view.dataset(*fields)``: what torch's DataLoader asks of a map-style dataset."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from zstore._typing import Array


class ViewDataset:
    """Samples of a view by row number: tuples of the fields' values, or the value itself of one field.

    A value is a number, a str or an ndarray of its own; of a bfloat16 field a torch tensor, because numpy's bfloat16 is none
    that torch reads. All are copies. Pinned to the view's version, whatever is written since. Pickles as the view does, so
    that spawned loader workers open the store themselves; forked ones share the mapping.
    """

    def __init__(self, view: Any, fields: Sequence[str]) -> None:
        self._view, self.fields = view, tuple(fields)

    def __len__(self) -> int:
        return len(self._view)

    def __getitem__(self, row: int) -> Any:
        """One sample; negative rows count from the end, IndexError beyond."""
        return self.__getitems__([operator.index(row)])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[Any]:
        """A list of samples: one gather per field for the whole batch."""
        picked = self._view.select(np.array([operator.index(row) for row in rows], np.int64))
        columns = [_samples(picked.field(name)) for name in self.fields]
        return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _samples(values: Array) -> list[Any]:
    own = np.array(values)
    if own.dtype.name != "bfloat16":
        return list(own)
    import torch

    return list(torch.from_numpy(own.view(np.uint16)).view(torch.bfloat16))
