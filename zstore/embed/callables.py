"""Any function from texts to vectors, as an encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zstore._typing import Array

_CHARACTERS = 4     # of a token, about
_ASKED = ["text", "What does this function make of a sentence?"]
_VALUES = 8         # of each vector that are remembered


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
        """``dim`` and ``dtype`` that are not given are asked of the function: it is called once, with two short texts, and
        ``provenance`` asks the same of it, so that a function that is paid by the call costs that one call per run and worker.
        ``name`` is what provenance calls it, by default its module and name. Raises ValueError if what the function gives is
        no (2, dim) of numbers."""
        self._function = function
        kind = type(function)
        self._name = name or ".".join(str(part) for part in (
            getattr(function, "__module__", kind.__module__), getattr(function, "__qualname__", kind.__qualname__)))
        self._asked: Array | None = None
        if dim is None or dtype is None:
            found = self._answer()
            dim = dim or found.shape[1]
            # Lists of Python's floats read as float64, which nobody meant.
            dtype = dtype or (found.dtype.name if found.dtype.name in ("float16", "bfloat16") else "float32")
        self.dim, self.dtype = dim, dtype

    def provenance(self) -> dict[str, Any]:
        """"probe" is what tells two functions of one name apart: of each of two texts its vector's length and some values."""
        vectors = self._answer().astype(np.float64)
        places = np.unique(np.linspace(0, vectors.shape[1] - 1, _VALUES).astype(np.int64))
        known = np.concatenate([np.linalg.norm(vectors, axis=1, keepdims=True), vectors[:, places]], axis=1)
        # What is NaN or infinite fails as a vector, and is none to compare.
        probe = [[float(f"{value:.7g}") for value in row] for row in known if np.isfinite(row).all()]
        return {"kind": "callable", "name": self._name, "dim": self.dim, "dtype": self.dtype, "probe": probe}

    def tokenize(self, texts: Sequence[str]) -> list[Any]:
        return [Text(text) for text in texts]

    def encode(self, tokens: Sequence[Any]) -> Array:
        """(n, dim) of ``dtype``. Raises what the function raises."""
        found = np.asarray(self._function([token.text for token in tokens]))
        return found if found.dtype.name == self.dtype else found.astype(self.dtype)

    def is_out_of_memory(self, error: BaseException) -> bool:
        return out_of_memory(error)

    def _answer(self) -> Array:
        """(2, dim) for two texts that never change. Asked once."""
        if self._asked is None:
            found = np.asarray(self._function(list(_ASKED)))
            if found.ndim != 2 or len(found) != len(_ASKED) or found.dtype.kind not in "fiuV":
                raise ValueError(f"{self._name} gives {found.dtype} of shape {found.shape} for {len(_ASKED)} texts, not "
                                 f"({len(_ASKED)}, dim) of numbers")
            self._asked = found
        return self._asked


def out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may succeed: MemoryError, torch's own error of a GPU, and what allocators say."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in (
        "out of memory", "can't allocate memory", "not enough memory", "alloc_failed"))
