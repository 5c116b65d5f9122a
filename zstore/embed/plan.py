"""Which texts go through the model together."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from zstore._typing import Int64s


def plan(lengths: Int64s, budget: int, exact: bool = False) -> list[Int64s]:
    """Batches of positions in ``lengths`` ((n,) tokens of each text), longest texts first; each position once.

    A batch of k texts, padded to its longest, is at most ``budget`` tokens; a text longer than that stands alone. ``exact``:
    all texts of a batch have one length, so that nothing is padded. The same lengths give the same batches.
    """
    if budget < 1:
        raise ValueError(f"budget is {budget}; a batch has 1 token at least")
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    by_length = np.asarray(lengths, np.int64)[order].tolist()
    cuts, start = [0], 0
    for at, length in enumerate(by_length):
        longest = max(by_length[start], 1)
        if at > start and ((at - start + 1) * longest > budget or (exact and length != longest)):
            cuts.append(at)
            start = at
    cuts.append(len(by_length))
    return [order[low:high] for low, high in pairwise(cuts) if high > low]


def padded(lengths: Int64s) -> int:
    """Tokens that the model is given for a batch of such ``lengths``."""
    return int(lengths.max()) * len(lengths) if len(lengths) else 0
