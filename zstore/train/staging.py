"""Copies of a batch that the training thread may leave behind: reused memory, and no wait for a GPU."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

# A dtype's name to torch's; what is not here is rounded by the writer.
CASTS = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def is_on_device(value: Any) -> bool:
    """A tensor that the CPU can't read before the GPU has come so far."""
    return isinstance(value, torch.Tensor) and value.is_cuda


def ready(value: Any, dtype: str | None) -> Any:
    """A value as the writer takes it soonest: CPU tensors as numpy sees them (a view), rounded to ``dtype`` where torch can do
    so without an overflow, which is the writer's to judge; lists of tensors as one; anything else as it is."""
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], torch.Tensor):
        value = torch.stack(tuple(value))
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach()
    if value.device.type != "cpu":
        return value
    target = CASTS.get(dtype) if dtype is not None and value.is_floating_point() else None
    if target not in (None, value.dtype):
        rounded = value.to(target)
        value = rounded if bool(torch.isfinite(rounded).all()) else value
    try:
        return value.numpy()
    except (TypeError, RuntimeError):       # bfloat16, and what is lazily conjugated
        return value


def stand_in(value: Any, dtype: str | None) -> Any:
    """A value to be judged before its batch is taken: what a GPU has yet to compute by its shape and type alone."""
    value = ready(value, dtype)
    return torch.zeros_like(value, device="cpu") if is_on_device(value) else value


class Slot:
    """The memory of one batch. Written by the training thread, read by the ring's, never at once."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], Any] = {}
        self._events: list[Any] = []
        self.values: dict[str, Any] = {}

    def fill(self, values: Mapping[str, Any], dtype: str | None, streams: Streams) -> None:
        """Copy all of it. ``dtype``: what a tensor named "vectors" on a GPU is rounded to, there. From a GPU the copies only
        begin here; ``wait`` is their end.

        A tensor that is made in inference mode can't be written outside it, and this memory is used again there."""
        with torch.inference_mode(False), torch.no_grad():
            self._fill(values, dtype, streams)

    def _fill(self, values: Mapping[str, Any], dtype: str | None, streams: Streams) -> None:
        filled: dict[str, Any] = {}
        devices: dict[Any, None] = {}
        for name, value in values.items():
            if is_on_device(value):
                cast = CASTS.get(dtype) if dtype is not None and name == "vectors" else None
                pinned = self._tensor("pinned", name, value.shape, cast or value.dtype, pin_memory=True)
                filled[name] = streams.copy(value, pinned)
                devices[value.device] = None
            elif isinstance(value, torch.Tensor):
                filled[name] = self._tensor("memory", name, value.shape, value.dtype).copy_(value)
            elif isinstance(value, np.ndarray):
                np.copyto(held := self._array(name, value), value)
                filled[name] = held
            elif type(value) is list and value and type(value[0]) in (str, int):
                filled[name] = value.copy()
            else:
                filled[name] = copy.deepcopy(value)
        self._events = [streams.event(device) for device in devices]
        self.values = filled

    def wait(self) -> None:
        """Until the copies are done. For the reading thread: the training thread never waits."""
        for event in self._events:
            event.synchronize()
        self._events = []

    def _tensor(self, where: str, name: str, shape: Any, dtype: Any, **options: Any) -> Any:
        if not shape:
            return torch.empty(shape, dtype=dtype, **options)
        held = self._held.get((where, name))
        if held is None or held.dtype != dtype or held.shape[1:] != shape[1:] or len(held) < shape[0]:
            # The old memory has no reader: this slot went through the ring, or was never handed over.
            held = self._held[where, name] = torch.empty(shape, dtype=dtype, **options)
        return held[:shape[0]]

    def _array(self, name: str, like: Any) -> Any:
        if like.ndim == 0 or like.dtype.hasobject or like.dtype.kind == "T":
            return np.empty(like.shape, like.dtype)
        held = self._held.get(("array", name))
        if held is None or held.dtype != like.dtype or held.shape[1:] != like.shape[1:] or len(held) < len(like):
            held = self._held["array", name] = np.empty(like.shape, like.dtype)
        return held[:len(like)]


class Streams:
    """One side stream per GPU, on which copies run beside the training's own work."""

    def __init__(self) -> None:
        self._streams: dict[Any, Any] = {}

    def copy(self, tensor: Any, pinned: Any) -> Any:
        """Begin to copy to pinned memory; gives ``pinned``.

        First a copy on the device, rounded there, in the order of the training's own work: what that changes in place later
        (a static buffer, a replayed graph) it changes behind it. Only the slow part, to the host, runs beside it."""
        device = tensor.device
        stream = self._streams.get(device)
        if stream is None:
            stream = self._streams[device] = torch.cuda.Stream(device)
        current = torch.cuda.current_stream(device)
        own = tensor.detach().to(pinned.dtype, copy=True, memory_format=torch.contiguous_format)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            pinned.copy_(own, non_blocking=True)
        # The allocator may else give this memory to the next step while the copy still reads it.
        own.record_stream(stream)
        return pinned

    def event(self, device: Any) -> Any:
        """One that comes when all copies begun so far have ended. Waiting for it sleeps."""
        event = torch.cuda.Event(blocking=True)
        event.record(self._streams[device])
        return event
