"""What a part of a training is made of, beyond its own ``state_dict``: gradients on their way, buffers that no one saves."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import torch

from zstore.train.rng import GENERATORS, generator_state, restore_generator


def part_state(part: Any) -> Any:
    """The state of a module, an optimizer, a generator, a dict, or anything with ``state_dict``. Shares its tensors."""
    if isinstance(part, torch.nn.Module):
        saved = part.state_dict()
        return {"state": saved,
                "grads": {key: parameter.grad for key, parameter in part.named_parameters() if parameter.grad is not None},
                "buffers": {key: buffer for key, buffer in part.named_buffers() if key not in saved}}
    if isinstance(part, GENERATORS):
        return generator_state(part)
    return dict(part) if isinstance(part, MutableMapping) else part.state_dict()


def restore_part(part: Any, state: Any) -> None:
    """Put a part where ``part_state`` found it. May keep the tensors of ``state``."""
    if isinstance(part, torch.nn.Module):
        part.load_state_dict(state["state"])
        _restore_buffers(part, state["buffers"])
        for key, parameter in part.named_parameters():
            grad = state["grads"].get(key)
            parameter.grad = None if grad is None else grad.to(parameter.device, parameter.dtype)
    elif isinstance(part, GENERATORS):
        restore_generator(part, state)
    elif isinstance(part, MutableMapping):
        part.clear()
        part.update(state)
    else:
        part.load_state_dict(state)


def check_part(name: str, part: Any) -> None:
    """TypeError for what has no state."""
    stateful = hasattr(part, "state_dict") and hasattr(part, "load_state_dict")
    if not stateful and not isinstance(part, (*GENERATORS, MutableMapping)):
        raise TypeError(f"{name} is a {type(part).__name__}, which can't be restored in place: give an object with state_dict "
                        "and load_state_dict, a generator, or a dict")


def _restore_buffers(module: Any, buffers: dict[str, Any]) -> None:
    """Non-persistent buffers: a memory bank, a cache that grew."""
    held = dict(module.named_buffers())
    for key, saved in buffers.items():
        if key in held and held[key].shape == saved.shape:
            held[key].copy_(saved)
        else:
            where, _, leaf = key.rpartition(".")
            like = next(module.parameters(), saved)
            module.get_submodule(where).register_buffer(leaf, saved.to(like.device), persistent=False)
