"""What a run would cost, from a sample: nothing is stored."""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

from zstore.embed.engine import vectors
from zstore.embed.models import load
from zstore.embed.progress import count_of, memory
from zstore.embed.texts import texts_of
from zstore.embed.types import Encoder, Failure, Item

SAMPLE = 512
BUDGETS = (2048, 8192, 32768)
_ROW_BYTES = 8 + 4 + 24         # the hash of the text, the epoch, and the key's place in the index, besides vector and id


def dry_run(source: Any, *, model: Any, prompt: str | None = None, dim: int | None = None, dtype: str | None = None,
            normalize: bool | None = None, sample: int = SAMPLE, budgets: tuple[int, ...] = BUDGETS, exact: bool = False,
            **reading: Any) -> dict[str, Any]:
    """Embed the first ``sample`` texts once with each budget, and tell what the whole would take.

    ``total`` items (None where the source can't be counted), ``failed`` of the sample; ``budgets``: docs_per_s, tokens_per_s
    and padding of each; ``best`` budget; ``hours`` and ``bytes`` on disk for the whole, before compression (None without a
    total); ``memory_bytes`` of this process. ``reading``: the options of the source. Raises ValueError where the sample has no
    text."""
    items = list(islice(texts_of(source, **reading), sample))
    good = [item for item in items if isinstance(item, Item)]
    if not good:
        raise ValueError(f"none of the first {len(items):,} items of the source is a text that can be embedded")
    encoder = load(model, prompt=prompt, dim=dim, dtype=dtype, normalize=normalize)
    texts = [item.text for item in good]
    _timed(encoder, texts[:8], budgets[0], exact)       # the first batches of a model are slow
    found = {budget: _timed(encoder, texts, budget, exact) for budget in budgets}
    best = max(found, key=lambda budget: float(found[budget]["docs_per_s"]))
    total = None if reading.get("passages") else count_of(source)
    whole = None if total is None else round(total * len(good) / len(items))
    row = encoder.dim * _itemsize(encoder.dtype) + _ROW_BYTES + sum(len(str(item.id)) for item in good) // len(good)
    return {"sample": len(items), "failed": len(items) - len(good), "total": total, "budgets": found, "best": best,
            "hours": None if whole is None else whole / float(found[best]["docs_per_s"]) / 3600,
            "bytes": None if whole is None else whole * row, "bytes_per_row": row, "memory_bytes": memory()}


def _timed(encoder: Encoder, texts: list[str], budget: int, exact: bool) -> dict[str, float]:
    tokens = padded = done = 0
    start = time.perf_counter()
    for result in vectors(iter(enumerate(texts)), encoder, budget=budget, exact=exact):
        if not isinstance(result, Failure):
            keys, _, stats = result
            done, tokens, padded = done + len(keys), tokens + stats.tokens, padded + stats.padded
    seconds = max(time.perf_counter() - start, 1e-9)
    return {"docs_per_s": round(done / seconds, 1), "tokens_per_s": round(tokens / seconds, 1),
            "padding": round(1 - tokens / padded, 4) if padded else 0.0}


def _itemsize(dtype: str) -> int:
    return {"float64": 8, "float32": 4, "int8": 1, "uint8": 1}.get(dtype, 2)
