"""The README's table of growth: what a store costs at the first and the last point of each sweep that was kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.growth.report import beyond

COLUMNS = (("append_us", "append of 256 rows, µs"), ("commit_ms", "commit, ms"), ("open_ms", "open, ms"),
           ("key_us", "one key, µs"),
           ("first_key_ms", "the first key of a process, ms"), ("gather_row_us", "a gathered row, µs"),
           ("writer_rss_mb", "a writer's memory, MB"), ("record_kb", "a record, kB"))

WORDS = {name: words.partition(",")[0] for name, words in COLUMNS} | {
    "any_key_us": "one key without its epoch", "private_mb": "a reader's own memory",
    "first_commit_ms": "a session's first commit",
    "writer_open_ms": "opening a Writer", "epochs_ms": "the list of epochs", "epoch_row_ns": "a row of epoch(e)",
    "latest_row_ns": "a row of latest()", "open_rss_mb": "memory of an open", "runs": "runs of the index",
    "open_requests": "requests of an open", "commit_requests": "requests of a commit"}


def load(folder: Path, axes: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The kept sweeps by axis."""
    return {a: json.loads(p.read_text()) for a in axes if (p := folder / f"growth-{a}.json").exists()}


def section(sweeps: dict[str, dict[str, Any]]) -> str:
    """A line per axis, and what grows more than it may."""
    lines = ["| | from, to | " + " | ".join(words for _, words in COLUMNS) + " |", "|---|---|" + "---|" * len(COLUMNS)]
    grows = []
    for axis, found in sweeps.items():
        first, last = found["points"][0], found["points"][-1]
        cells = [f"{_number(first.get(m))} → {_number(last.get(m))}" for m, _ in COLUMNS]
        lines.append(f"| {axis} | {first['at']:,}, {last['at']:,} | " + " | ".join(cells) + " |")
        grows += [f"{WORDS.get(m, m)} with {axis} (exponent {found['growth'][m]:.2f})"
                  for m in beyond(found)]
    told = "; ".join(grows) if grows else "nothing"
    return "\n".join([*lines, "", f"More than logarithmic between the last points: {told}."])


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2g}"
