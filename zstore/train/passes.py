"""The batches of a loader, once through: whose rows they are, what goes into the model, what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from zstore.train.capture import Select, Watched

Part = Any      # of a batch: a key, a function of it, or an array for the whole loader
Forward = Callable[[Any], Any]


@dataclass
class Batch:
    """One batch: its ids and fields, and the loader's own batch as ``inputs``."""

    ids: Any
    fields: dict[str, Any]
    inputs: Any

    def part(self, value: Any, rows: Any) -> Any:
        """Those of the batch's rows; one value for all rows stays."""
        if isinstance(value, torch.Tensor):
            return value[torch.as_tensor(rows, device=value.device)] if value.ndim else value
        if isinstance(value, list | tuple):
            return [value[row] for row in rows]
        return value[rows] if getattr(value, "ndim", 0) else value


class Passes:
    """A loader beside the model that it is for; ``batches`` goes through it from the start, as often as wanted."""

    def __init__(self, model: Any, loader: Any, ids: Part, forward: Forward | None, module: Any, select: Select | None,
                 fields: Mapping[str, Part]) -> None:
        self.model, self._loader, self._ids, self._fields = model, loader, ids, dict(fields)
        self.forward = forward or self._forward
        self._module, self._select = module, select
        arrays = [name for name, part in (("ids", ids), *fields.items()) if _is_array(part)]
        if arrays and isinstance(getattr(loader, "sampler", None), torch.utils.data.RandomSampler):
            raise ValueError(f"{arrays[0]} in the loader's order, but the loader shuffles; make it with shuffle=False, or have "
                             "each batch carry its ids")

    def batches(self) -> Iterator[Batch]:
        """The loader's batches, in order. ValueError where all ids were given and their number is not the loader's."""
        at = 0
        for inputs in self._loader:
            count = _size(inputs)
            fields = {name: self._found(name, part, inputs, at, count) for name, part in self._fields.items()}
            ids = self._found("ids", self._ids, inputs, at, count)
            yield Batch(ids.tolist() if isinstance(ids, torch.Tensor) else ids, fields, inputs)
            at += count
        if _is_array(self._ids) and len(self._ids) != at:
            raise ValueError(f"there are {len(self._ids)} ids, and the loader gave {at} samples")

    def vectors(self, batch: Batch) -> Any:
        """What the module, or else the model, makes of a batch: a tensor (n, ...)."""
        name = type(self.model if self._module is None else self._module).__name__
        last = torch.nn.Identity()      # what the model gives goes through it, where no module of its own is named
        watched = Watched(last if self._module is None else self._module, name, ["vectors"], self._select)
        try:
            watched.begin()
            output = self.forward(batch.inputs)
            if self._module is None:
                last(output)
            return watched.take(len(batch.ids))["vectors"]
        finally:
            watched.remove()

    def _forward(self, batch: Any) -> Any:
        used = [part for part in (self._ids, *self._fields.values()) if isinstance(part, str | int)]
        some = next(iter(self.model.parameters()), None)
        device = None if some is None else some.device

        def moved(value: Any) -> Any:
            return value.to(device) if hasattr(value, "to") and device is not None else value
        if isinstance(batch, Mapping):
            return self.model(**{name: moved(value) for name, value in batch.items() if name not in used})
        if isinstance(batch, list | tuple) and not all(isinstance(item, str) for item in batch):
            return self.model(moved(next(item for n, item in enumerate(batch) if n not in used)))
        return self.model(moved(batch))

    def _found(self, name: str, part: Part, batch: Any, at: int, count: int) -> Any:
        if callable(part):
            return part(batch)
        if _is_array(part):
            return part[at:at + count]
        try:
            return batch[part]
        except (KeyError, IndexError, TypeError):
            holds = f" ({', '.join(map(str, batch))})" if isinstance(batch, Mapping) else ""
            raise ValueError(f"a batch of the loader is a {type(batch).__name__}{holds} without {part!r}; pass {name}=: a key "
                             "of the batch, a function of it, or an array in the loader's order") from None


def _is_array(part: Part) -> bool:
    return not callable(part) and not isinstance(part, str | int | np.integer)


def _size(batch: Any) -> int:
    """How many samples a batch holds."""
    if isinstance(batch, Mapping):
        return len(next(iter(batch.values())))
    if isinstance(batch, list | tuple) and batch and hasattr(batch[0], "__len__") and not isinstance(batch[0], str):
        return len(batch[0])
    return len(batch)
