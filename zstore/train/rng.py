"""The random generators that a training draws from, as plain values that a checkpoint can hold."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def rng_state() -> dict[str, Any]:
    """Where the global generators of python, numpy and torch stand (each GPU's too). Draws nothing. ``torch.load`` reads it
    with ``weights_only=True``."""
    state = {"python": random.getstate(), "numpy": _plain(np.random.get_state(legacy=False)), "torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_rng(state: dict[str, Any]) -> None:
    """Set the global generators to where ``rng_state`` found them. GPUs that are not here are left out."""
    random.setstate(_tuples(state["python"]))
    np.random.set_state(_arrays(state["numpy"]))
    torch.set_rng_state(state["torch"].cpu())
    for device, there in enumerate(state.get("cuda", [])[:torch.cuda.device_count()]):
        torch.cuda.set_rng_state(there.cpu(), device)


def generator_state(generator: Any) -> Any:
    """Where one ``torch.Generator``, ``numpy.random.Generator`` or ``random.Random`` stands."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    return generator.getstate() if isinstance(generator, random.Random) else _plain(generator.bit_generator.state)


def restore_generator(generator: Any, state: Any) -> None:
    """Set one generator to where ``generator_state`` found it."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state.cpu())
    elif isinstance(generator, random.Random):
        generator.setstate(_tuples(state))
    else:
        generator.bit_generator.state = _arrays(state)


GENERATORS = (torch.Generator, np.random.Generator, random.Random)


def _plain(state: Any) -> Any:
    """Without numpy: ``torch.load(weights_only=True)`` refuses its arrays."""
    if isinstance(state, dict):
        return {name: _plain(value) for name, value in state.items()}
    if isinstance(state, np.ndarray):
        return {"dtype": str(state.dtype), "values": state.tolist()}
    return state.item() if isinstance(state, np.generic) else state


def _arrays(state: Any) -> Any:
    if isinstance(state, dict):
        if state.keys() == {"dtype", "values"}:
            return np.array(state["values"], state["dtype"])
        return {name: _arrays(value) for name, value in state.items()}
    return state


def _tuples(state: Any) -> Any:
    """A checkpoint that went through JSON has lists."""
    return tuple(map(_tuples, state)) if isinstance(state, (list, tuple)) else state
