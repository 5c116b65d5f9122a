"""What is measured: a figure is a name, a unit, which way is better, and the samples of one round."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Figure:
    """``head``: the number that ranks contenders: "p50", or "p99" where the slow ones are the point."""

    name: str
    unit: str
    more_is_better: bool = False
    head: str = "p50"


Samples = dict[str, list[float]]       # figure's name -> what one process measured, in the figure's unit


def summary(values: list[float]) -> dict[str, float]:
    """{"n", "p50", "p90", "p99", "max"} of one round's samples."""
    p50, p90, p99, most = np.percentile(np.asarray(values, float), [50, 90, 99, 100]).tolist()
    return {"n": len(values), "p50": p50, "p90": p90, "p99": p99, "max": most}


def over_rounds(rounds: list[dict[str, float]], figure: Figure) -> dict[str, Any]:
    """The median over rounds of each quantile; ``value`` is the one that ranks, ``low`` and ``high`` its rounds' extremes."""
    merged: dict[str, Any] = {q: statistics.median(r[q] for r in rounds) for q in ("p50", "p90", "p99", "max")}
    heads = [r[figure.head] for r in rounds]
    merged |= {"value": statistics.median(heads), "low": min(heads), "high": max(heads), "rounds": heads, "n": rounds[0]["n"]}
    return merged


def ratio_to(rounds: list[float], others: list[float], figure: Figure) -> float:
    """How many times better than the other, as the median over rounds: 2.0 is twice as good whichever way is better. Shares
    that are added to something compare what they come to with it: they may be nothing, or less."""
    whole = 100 if figure.unit == "%" else 0
    pairs = [(a + whole, b + whole) for a, b in zip(rounds, others, strict=False)]
    return statistics.median(_over(a, b) if figure.more_is_better else _over(b, a) for a, b in pairs)


def _over(one: float, other: float) -> float:
    """Of nothing, such as no requests at all, twice is as much as once."""
    return 1.0 if one == other else one / other if other else float("inf")
