"""The table of a sweep: what was measured, how it grows, and what grows more than it may."""

from __future__ import annotations

import math
import os
import platform
from typing import Any

import numpy as np

# What a measure may grow by, as the exponent of the axis; all else is to be flat. Noise of two cores is about 0.1.
FLAT = 0.2
BOUNDS: dict[str, dict[str, float]] = {
    "rows": {"files": 1.0},
    "epochs": {"files": 1.0},
    "commits": {"files": 1.1},
    "dims": dict.fromkeys(("append_us", "commit_ms", "first_commit_ms", "gather_row_us", "key_us", "any_key_us",
                           "first_key_ms", "files", "writer_rss_mb", "private_mb"), 1.1),
    "members": {"files": 1.1},
    "preemptions": {"files": 1.1},
}
MEASURES = {      # and the least value that counts: below it a ratio says nothing
    "append_us": 20.0, "commit_ms": 2.0, "first_commit_ms": 5.0, "writer_open_ms": 5.0, "open_ms": 1.0, "first_key_ms": 3.0,
    "key_us": 3.0, "any_key_us": 3.0, "gather_row_us": 0.1, "epochs_ms": 1.0, "epoch_row_ns": 20.0, "latest_row_ns": 20.0,
    "open_rss_mb": 2.0, "private_mb": 20.0, "writer_rss_mb": 40.0, "record_kb": 4.0, "runs": 40.0,
    "open_requests": 4.0, "commit_requests": 10.0, "files": 10.0}
# Linear in what they return or hold, whatever they are asked of; told, not judged. rss_mb counts the pages of mapped files.
TOLD = ("epoch_ms", "latest_ms", "rss_mb", "rows", "extents")


def slope(points: list[dict[str, Any]], measure: str) -> float | None:
    """The exponent of the measure's growth over the last three points; None where it was not measured twice."""
    known = [(p["at"], max(p[measure], MEASURES.get(measure, 1e-9))) for p in points if p.get(measure) is not None][-3:]
    if len(known) < 2:
        return None
    at, value = np.log([a for a, _ in known]), np.log([v for _, v in known])
    return float(np.polyfit(at, value, 1)[0])


def growth(points: list[dict[str, Any]]) -> dict[str, float]:
    """The slope of every measure."""
    return {m: s for m in (*MEASURES, *TOLD) for s in [slope(points, m)] if s is not None}


def beyond(found: dict[str, Any]) -> list[str]:
    """The measures that grow more than they may."""
    bounds = BOUNDS[found["axis"]]
    return [m for m, s in found["growth"].items() if m in MEASURES and s > bounds.get(m, FLAT)]


def table(found: dict[str, Any]) -> str:
    """A line per measure, a column per point, the slope last."""
    points, bad = found["points"], beyond(found)
    lines = ["", f"{found['axis']:<16}" + "".join(f"{p['at']:>11,}" for p in points) + "     slope"]
    for measure in (*MEASURES, *TOLD):
        values = [p.get(measure) for p in points]
        if measure in found["growth"]:
            mark = "  grows" if measure in bad else ""
            bound = BOUNDS[found["axis"]].get(measure, FLAT)
            allowed = f" (≤ {bound:.1f})" if measure in MEASURES else ""
            lines.append(f"{measure:<16}" + "".join(f"{_number(v):>11}" for v in values)
                         + f"{found['growth'][measure]:10.2f}{allowed}{mark}")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Where this was measured."""
    return {"cores": os.cpu_count(), "machine": platform.machine(), "system": platform.system(),
            "python": platform.python_version(), "numpy": np.__version__}


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    digits = 0 if value == 0 or value >= 100 or value == int(value) else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 3)}f}"
