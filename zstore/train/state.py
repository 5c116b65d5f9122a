"""All that a training has to remember to go on, bit for bit, as if it had never stopped."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

from zstore.notices import warn
from zstore.train.checkpoint import read_checkpoint, write_checkpoint
from zstore.train.fingerprint import doubts, fingerprint
from zstore.train.parts import check_part, part_state, restore_part
from zstore.train.rng import restore_rng, rng_state
from zstore.train.start import check_store, checked_mark

FORMAT = 1
PARTS = ("model", "optimizer", "scheduler", "scaler", "sampler")


class TrainState:
    """What a checkpoint holds, and how a run goes on from it. Itself a torch ``Stateful``.

    ::

        state = TrainState(model=model, optimizer=optimizer, scheduler=scheduler, sampler=sampler, recorder=recorder)
        if os.path.exists("last.pt"):
            state.load("last.pt")
        for epoch in range(state.epoch, 3):
            state.epoch = epoch
            for batch in sampler.batches(loader, epoch):
                state.step += 1
                with recorder.batch(batch["id"], epoch=epoch, step=state.step):
                    ...
                if state.step % 100 == 0:
                    state.save("last.pt")

    Kept: the parts, gradients that wait for their step and non-persistent buffers of modules, ``epoch`` and ``step``, the
    recorder's mark, the random generators of python, numpy and torch, and a fingerprint of the environment.

    Parameters
    ----------
    model, optimizer, scheduler, scaler, sampler
        What the training has of these; anything with ``state_dict`` and ``load_state_dict``.
    recorder : Recorder
        Its rows are on the disk before a checkpoint is visible, and go back to the checkpoint's when one was loaded.
    extra : dict
        More of the kind by name: modules (an average of the weights, a loss with parameters), second optimizers,
        ``torch.Generator``, ``numpy.random.Generator``, ``random.Random``, and dicts of plain values.

    Attributes
    ----------
    epoch, step : int
        The loop's own counters, kept and restored. Count a step before its rows are recorded with ``step=``: a checkpoint
        at step n then stands behind the rows of steps 1 to n.
    """

    def __init__(self, *, model: Any = None, optimizer: Any = None, scheduler: Any = None, scaler: Any = None,
                 sampler: Any = None, recorder: Any = None, extra: Mapping[str, Any] | None = None) -> None:
        named = zip(PARTS, (model, optimizer, scheduler, scaler, sampler), strict=True)
        self._parts = {**{name: part for name, part in named if part is not None},
                       **{f"extra.{name}": part for name, part in (extra or {}).items()}}
        for name, part in self._parts.items():
            check_part(name, part)
        self._recorder = recorder
        self.epoch = self.step = 0

    def state_dict(self) -> dict[str, Any]:
        """Everything, as tensors and plain values; parts share their tensors with it, so copy it to keep it while training
        goes on. Rows recorded so far are on the disk first. Draws no random number.

        Save after the batch: RuntimeError inside an open ``recorder.batch``, whose rows the mark would lack."""
        if self._recorder is not None and self._recorder._inside:
            raise RuntimeError("a batch of the recorder is open, and its rows are recorded at its end: save after the batch")
        # First, so that whatever the others draw does not count.
        state: dict[str, Any] = {"format": FORMAT, "rng": rng_state()}
        if self._recorder is not None:
            state["recorder"] = self._recorder.state_dict()
        state["parts"] = {name: part_state(part) for name, part in self._parts.items()}
        state |= {"epoch": self.epoch, "step": self.step, "fingerprint": fingerprint()}
        restore_rng(state["rng"])
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there. ``state`` is copied. The store stays as it is until the first row is recorded.

        ValueError where this training is made of other parts; BehindCheckpoint where the store lacks what the checkpoint
        names. Warns where the environment differs, so that the same bits can't be promised."""
        self._check(state)
        self._restore({**state, "parts": copy.deepcopy(state["parts"])})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint: atomic, and durable when it returns. Whatever happens, ``path`` is the old one or the new one."""
        write_checkpoint(path, self.state_dict())

    def load(self, path: str | os.PathLike[str]) -> None:
        """``load_state_dict`` of what ``save`` wrote; FileNotFoundError where there is none."""
        state = read_checkpoint(path)
        self._check(state)
        self._restore(state)

    def _check(self, state: Any) -> None:
        """Before anything is changed."""
        if not isinstance(state, Mapping) or not {"format", "parts", "rng", "fingerprint"} <= set(state):
            raise ValueError("this is not a checkpoint of a TrainState")
        if state["format"] != FORMAT:
            raise ValueError(f"the checkpoint has format {state['format']}, and this zstore reads {FORMAT}; take a newer one")
        here, there = set(self._parts), set(state["parts"])
        if here != there:
            told = [f"{who} {', '.join(sorted(more))}, which {other} lacks" for who, more, other in (
                ("this TrainState has", here - there, "the checkpoint"),
                ("the checkpoint holds", there - here, "this TrainState")) if more]
            raise ValueError(f"{'; '.join(told)}: make it of the same parts, or load single ones by hand from torch.load(path)")
        if self._recorder is not None and "recorder" in state:
            check_store(self._recorder.url, checked_mark(state["recorder"]), self._recorder._storage_options())

    def _restore(self, state: Mapping[str, Any]) -> None:
        if self._recorder is not None:
            if "recorder" in state:
                self._recorder.load_state_dict(state["recorder"])
            else:
                self._recorder.load_step(state["step"])
        for name, part in self._parts.items():
            restore_part(part, state["parts"][name])
        self.epoch, self.step = state["epoch"], state["step"]
        model: Any = self._parts.get("model")
        on_gpu = hasattr(model, "parameters") and any(parameter.is_cuda for parameter in model.parameters())
        found = doubts(state["fingerprint"], on_gpu=on_gpu)
        # Last: whatever the parts drew while they were restored does not count.
        restore_rng(state["rng"])
        if found:
            warn(f"the training goes on, but perhaps not with the same bits: {'; '.join(found)}")
