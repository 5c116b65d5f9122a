"""Record a training run: every sample's embedding, exactly once, also across crash and resume."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zstore.train.hf import attach
    from zstore.train.probe import backfill, snapshot, undisturbed
    from zstore.train.recorder import Recorder
    from zstore.train.sampler import ResumableSampler
    from zstore.train.state import TrainState

__all__ = ["Recorder", "ResumableSampler", "TrainState", "attach", "backfill", "snapshot", "undisturbed"]

# Loaded when asked for: torch takes seconds.
_HOMES = {"Recorder": "recorder", "ResumableSampler": "sampler", "TrainState": "state", "attach": "hf",
          "backfill": "probe", "snapshot": "probe", "undisturbed": "probe"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zstore.train' has no attribute {name!r}")
    value = getattr(import_module(f"zstore.train.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
