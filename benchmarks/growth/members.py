"""Members: processes of one session that commit at once. Each commit is one round trip on the log, whoever makes it."""

from __future__ import annotations

from typing import Any

from benchmarks import members
from benchmarks.growth.measure import Sweep

TOY, MOST = 2, 16


def run(sweep: Sweep, most: int) -> list[dict[str, Any]]:
    """Powers of two from 1 up to ``most``; a new store each, to which they commit for some seconds."""
    points, count = [], 1
    while count <= most:
        url = sweep.url(f"members-{count}")
        made = members.run(url, count, 0.2 if sweep.toy else 3.0, {})
        rows = made["fewest"] * members.ROWS          # at least so many of member 0, the first ones
        point = sweep.point(count, url, ids=rows, epochs=[0], dim=members.DIM, dtype="float32", write=False)
        points.append(point | {"append_us": made["append_us"], "member_commit_ms": made["member_commit_ms"],
                               "commit_ms": 1e3 / made["per_second"],       # of the store: what one more commit costs the log
                               "lost": made["lost_per_commit"]})
        count *= 2
    return points
