"""Every scenario by its name. A scenario is one module: FIGURES, STEPS, and the steps as functions."""

from __future__ import annotations

import importlib
from types import ModuleType

NAMES = ("append", "training", "commit", "gather", "one_row", "keys", "scan", "epoch_slice", "open", "resume", "remote")


class _Scenarios(dict[str, ModuleType]):
    """Modules by name, imported when asked for.

    Each holds: ``FIGURES``, a tuple of Figure; ``STEPS``, the names of its functions ``step(contender, data, size)`` in their
    order, each run in a fresh process and giving Samples; ``STORE``, the step of another kind that comes first, once per
    contender: None, or "plain" for a finished store of all rows; ``COLD``, the steps before which pages are dropped; and
    ``limits(data, folder)``, what the machine alone can do, per figure: {figure: {name of the limit: value}}."""

    def __missing__(self, name: str) -> ModuleType:
        self[name] = importlib.import_module(f"benchmarks.scenarios.{name}")
        return self[name]


SCENARIOS = _Scenarios()
