"""Any function from texts to vectors, as an encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zstore._typing import Array

_CHARACTERS = 4     # of a token, about


class Text:
    """A text whose ``len`` is about the number of its tokens: a function says nothing of its own."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __len__(self) -> int:
        return len(self.text) // _CHARACTERS + 1


class CallableEncoder:
    """``function(list of str)`` gives (n, dim): an array, a tensor of the CPU, or lists of numbers."""

    max_tokens = 1 << 30        # a function is given whole texts

    def __init__(self, function: Callable[[list[str]], Any], *, dim: int | None = None, dtype: str | None = None,
                 name: str | None = None) -> None:
        """``dim`` and ``dtype`` that are not given are asked of the function, with one short text. ``name`` is what provenance
        calls it, by default its module and name: change it when the function changes. Raises ValueError if what
        the function gives is no (1, dim) of numbers."""
        self._function = function
        kind = type(function)
        self._name = name or ".".join(str(part) for part in (
            getattr(function, "__module__", kind.__module__), getattr(function, "__qualname__", kind.__qualname__)))
        if dim is None or dtype is None:
            probe = np.asarray(function(["text"]))
            if probe.ndim != 2 or len(probe) != 1 or probe.dtype.kind not in "fiuV":
                raise ValueError(f"{self._name} gives {probe.dtype} of shape {probe.shape} for one text, not (1, dim) of "
                                 "numbers")
            dim = dim or probe.shape[1]
            # Lists of Python's floats read as float64, which nobody meant.
            dtype = dtype or (probe.dtype.name if probe.dtype.name in ("float16", "bfloat16") else "float32")
        self.dim, self.dtype = dim, dtype

    def provenance(self) -> dict[str, Any]:
        return {"kind": "callable", "name": self._name, "dim": self.dim, "dtype": self.dtype}

    def tokenize(self, texts: Sequence[str]) -> list[Any]:
        return [Text(text) for text in texts]

    def encode(self, tokens: Sequence[Any]) -> Array:
        """(n, dim) of ``dtype``. Raises what the function raises."""
        found = np.asarray(self._function([token.text for token in tokens]))
        return found if found.dtype.name == self.dtype else found.astype(self.dtype)

    def is_out_of_memory(self, error: BaseException) -> bool:
        return out_of_memory(error)


def out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may succeed: MemoryError, torch's own error of a GPU, and what allocators say."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in (
        "out of memory", "can't allocate memory", "not enough memory", "alloc_failed"))
