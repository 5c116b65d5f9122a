"""Forward hooks: what a watched module gave for the rows of a batch, each once, however often it ran."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

Select = Callable[[Any], Any]
FORGOTTEN = 5           # training forwards outside any batch, before somebody is told; a warm-up has fewer


class Watched:
    """One module's hook. Outside a batch it only counts; inside, it keeps what the module gives.

    A module runs more often than the loop says: gradient checkpointing runs it again inside backward (both modes; the
    reentrant one with gradients off the first time), cached losses run each mini-batch twice. The calls that count are
    those outside backward: the graph task's id is -1 there. Whether gradients are on says nothing.
    """

    def __init__(self, module: Any, name: str, fields: Sequence[str], select: Select | None,
                 forgotten: Callable[[Watched], None] | None = None) -> None:
        self.name, self.fields = name, tuple(fields)
        self._select, self._forgotten = select, forgotten
        # Each with the version of its memory when it was taken, -1 where it is a copy. None: no batch is open.
        self.outputs: list[tuple[Any, int]] | None = None
        self._thread = 0                            # the one that opened the batch
        self._elsewhere = False                     # it ran on another one meanwhile
        self.unclaimed = 0                          # training forwards outside any batch
        self.active = True
        self._handle = None if module is None else module.register_forward_hook(self._hook)

    def __reduce__(self) -> Any:
        # A copy of the model, or a pickled one, is another model: nobody watches it.
        return (Watched, (None, self.name, self.fields, None))

    def remove(self) -> None:
        """Watch no longer."""
        self.active = False
        if self._handle is not None:
            self._handle.remove()

    def begin(self) -> None:
        """A batch is open, on this thread."""
        self.outputs, self._thread, self._elsewhere = [], threading.get_ident(), False

    def end(self) -> None:
        self.outputs = None

    def _hook(self, module: Any, inputs: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            # This becomes part of the graph. Compiled code runs no hook inside backward; a copy, as nobody can see there
            # whether a later operation works in place. Nothing is read that changes from step to step: each would compile anew.
            if self.outputs is not None:
                self.outputs.append((tensor_of(output, self.name, self._select).detach().clone(), -1))
            elif module.training:
                self.unclaimed = 1
            return
        if torch._C._current_graph_task_id() != -1:
            return
        if self.outputs is None:
            if module.training:
                self.unclaimed += 1
                if self.unclaimed == FORGOTTEN and self._forgotten is not None:
                    self._forgotten(self)
        elif threading.get_ident() != self._thread:
            self._elsewhere = True
        else:
            kept = tensor_of(output, self.name, self._select).detach()
            # A tensor of inference mode has no version to go by.
            self.outputs.append((kept.clone(), -1) if kept.is_inference() else (kept, kept._version))

    def take(self, count: int) -> dict[str, Any]:
        """The field(s) of a batch of ``count`` rows. With k fields the module ran over k columns, one after the other, each
        whole or in mini-batches."""
        outputs = self.outputs or []
        if not outputs:
            where = ("on another thread (DataParallel? watch the outer module)" if self._elsewhere else
                     "inside `with recorder.batch(...)`, so there is nothing to record; call the model inside the block, and "
                     "watch() before torch.compile()")
            raise RuntimeError(f"{self.name} {'ran' if self._elsewhere else 'did not run'} {where}")
        for kept, version in outputs:
            if version >= 0 and kept._version != version:
                raise RuntimeError(f"what {self.name} gave was changed in place before the batch ended (a ReLU(inplace=True) "
                                   "behind it?): its own values are gone; watch(module, select=lambda output: output.clone())")
        parts = [kept for kept, _ in outputs]
        rows = sum(part.shape[0] for part in parts)
        if rows != count * len(self.fields):
            raise ValueError(self._mismatch(count, rows))
        if len(parts) == len(self.fields) and all(part.shape[0] == count for part in parts):
            return dict(zip(self.fields, parts, strict=True))
        whole = torch.cat(parts)
        return {field: whole[n * count:(n + 1) * count] for n, field in enumerate(self.fields)}

    def _mismatch(self, count: int, rows: int) -> str:
        told = f"{self.name} gave {rows} vectors in this batch, and there are {count} ids"
        if count and rows > count and rows % count == 0:
            names = ", ".join(f'"{"vectors" if n == 0 else f"vectors{n + 1}"}"' for n in range(rows // count))
            return (f"{told}: it ran {rows // count} times over the batch (one column of texts after the other?). Name a field "
                    f"for each: watch(module, field=[{names}])")
        if len(self.fields) > 1 and rows == count:
            return f"{told}, for the fields {', '.join(self.fields)}: it ran once; watch(module, field=\"vectors\")"
        return f"{told}; pass one id per vector"


@contextmanager
def taking(watching: Sequence[Watched], count: int) -> Iterator[dict[str, Any]]:
    """The fields that the modules give for ``count`` rows inside: there when the block has ended without an exception."""
    values: dict[str, Any] = {}
    try:
        for watched in watching:
            watched.begin()
        yield values
        for watched in watching:
            if count or watched.outputs:        # no id is no reason to have run
                values.update(watched.take(count))
    finally:
        for watched in watching:
            watched.end()


def tensor_of(output: Any, name: str, select: Select | None) -> Any:
    """The vectors in what a module called ``name`` gave; TypeError or ValueError where there are none to be seen."""
    if select is not None:
        output = select(output)
    elif isinstance(output, dict) and "sentence_embedding" in output:
        output = output["sentence_embedding"]
    if not isinstance(output, torch.Tensor):
        keys = f" with {', '.join(map(str, output))}" if isinstance(output, dict) else ""
        raise TypeError(f"{name} gives a {type(output).__name__}{keys}, not a tensor: say which part to record, "
                        "watch(module, select=lambda output: ...)")
    if output.ndim < 2:
        raise ValueError(f"{name} gives {tuple(output.shape)}, not one vector per sample: (n, ...)")
    return output
