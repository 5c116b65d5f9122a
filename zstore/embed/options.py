"""What of ``embed``'s options goes to the writer, and what is said of an option that there is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WRITER = ("codec", "rows_per_shard", "attrs", "takeover", "only_writer")
_ELSEWHERE = {
    "batch_size": "batches go by budget, in padded tokens",
    "normalize_embeddings": "it is called normalize",
    "truncate_dim": "it is called dim",
    "prompt_name": "it is called prompt, which takes a name too",
    "show_progress_bar": "it is called progress",
    "mode": "a store is made or continued, and a row is replaced by its id",
    "commit_every_s": "it is called commit_s",
}


def for_writer(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options as they are; TypeError, in one sentence, for one that ``embed`` does not have."""
    for name in given:
        if name not in _WRITER:
            hint = _ELSEWHERE.get(name, f"beside those of its own it takes the writer's {', '.join(_WRITER)}")
            raise TypeError(f"embed has no option {name!r}: {hint}")
    return dict(given)
