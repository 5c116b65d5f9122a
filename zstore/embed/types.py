"""What the parts of an embedding run hand to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from zstore._typing import Array


@dataclass(frozen=True, slots=True)
class Item:
    """One text of the source. ``text`` may be anything until it was checked; ``place`` says where it stands, for messages:
    "docs.jsonl line 17". ``fields`` are kept beside the vector."""

    id: Any
    text: Any
    fields: dict[str, Any] = field(default_factory=dict)
    place: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that could not be embedded, and why. ``stage``: "source", "check", "tokenize", "encode". ``reason`` is one
    sentence; ``sample`` the text's first characters, printable; ``epoch`` that of the row which is not there."""

    id: Any
    stage: str
    reason: str
    place: str = ""
    sample: str = ""
    epoch: int = 0


class Encoder(Protocol):
    """A model, as the engine sees it. One thread calls ``tokenize``, another ``encode``."""

    dim: int
    dtype: str                  # of the vectors: "float32", "bfloat16", ...
    max_tokens: int             # an item's tokens are at most so many

    def provenance(self) -> dict[str, Any]:
        """What makes a vector: JSON of plain values. Two encoders that may share a store give equal ones."""
        ...

    def tokenize(self, texts: Sequence[str]) -> list[Any]:
        """One opaque value of each text, whose ``len`` is the number of its tokens, cut to ``max_tokens``."""
        ...

    def encode(self, tokens: Sequence[Any]) -> Array:
        """(n, dim) of ``dtype``, in the order given. Raises MemoryError, or what ``is_out_of_memory`` knows, for a batch that
        is too large."""
        ...

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether a smaller batch may succeed."""
        ...


@dataclass
class Report:
    """What a run did. Seconds are of the wall clock; ``tokens`` and ``padded`` count what the model was given, without and with
    padding."""

    seen: int = 0               # items of the source
    embedded: int = 0           # rows written with a vector that the model made
    skipped: int = 0            # in the store already, with this text
    copied: int = 0             # rows written with the vector of another row that has the same text
    changed: int = 0            # embedded or copied, and there before with another text
    failed: int = 0             # in the ledger
    left_out: int = 0           # bad items that on_bad="skip" passed over
    pruned: int = 0             # ids that were hidden, because the source has them no more
    absent: int = 0             # in the store, not in the source, and left
    tokens: int = 0
    padded: int = 0
    seconds: float = 0.0
    commits: int = 0
    interrupted: bool = False
    first_failure: str = ""     # which item failed first, and why


Rows = tuple[Sequence[Any], Array, dict[str, Any]]      # ids, vectors, fields: what is appended at once
