"""From a large collection of texts to a store: fast, resumable, honest about what failed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zstore.embed.queries import query
    from zstore.embed.run import embed
    from zstore.embed.types import Encoder, Failure, Item, Report

__all__ = ["Encoder", "Failure", "Item", "Report", "embed", "query"]

_HOMES = {"Encoder": "types", "Failure": "types", "Item": "types", "Report": "types", "embed": "run",
          "query": "queries"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zstore.embed' has no attribute {name!r}")
    value = getattr(import_module(f"zstore.embed.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
