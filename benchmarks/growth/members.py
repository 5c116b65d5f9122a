"""Members: processes of one session that commit at once. Each commit is one round trip on the log, whoever makes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np

from benchmarks.growth.measure import BATCH, ROOT, Sweep, ids_of

TOY, MOST = 2, 16
DIM, DTYPE, COMMITS = 32, "float16", 160
_CODE = ("import json, sys; from benchmarks.growth import members; print(json.dumps(members.member(*json.loads(sys.argv[1]))))")


def run(sweep: Sweep, most: int) -> list[dict[str, Any]]:
    """Powers of two from 1 up to ``most``; 160 commits in all at each point, a new store each."""
    points, count = [], 1
    while count <= most:
        url, each = sweep.url(f"members-{count}"), (4 if sweep.toy else COMMITS // count)
        begin = time.time() + (1 if sweep.toy else 2 + count / 2)
        children = [subprocess.Popen([sys.executable, "-W", "ignore", "-c", _CODE, json.dumps([url, number, each, begin])],
                                     cwd=ROOT, env=os.environ | {"PYTHONPATH": _path()}, text=True, stdout=subprocess.PIPE)
                    for number in range(count)]
        shares = [json.loads(child.communicate(timeout=300)[0]) for child in children]
        if any(child.returncode for child in children):
            raise RuntimeError("a member failed")
        point = sweep.point(count, url, ids=each * BATCH, epochs=[0], dim=DIM, dtype=DTYPE, write=False)
        spent = max(share["end"] for share in shares) - min(share["begin"] for share in shares)
        point |= {"append_us": float(np.median([share["append_us"] for share in shares])),
                  "commit_ms": 1e3 * spent / (each * count),        # of the store: what one more commit costs the log
                  "member_commit_ms": float(np.median([share["commit_ms"] for share in shares])),
                  "lost": sum(share["lost"] for share in shares) / (each * count)}
        points.append(point)
        count *= 2
    return points


def member(url: str, number: int, commits: int, begin: float) -> dict[str, float]:
    """One process's part."""
    import zstore
    from zstore.commits import publish

    create, lost = publish.create_record, 0

    def counting(*args: Any) -> bool:
        nonlocal lost
        made = create(*args)
        lost += not made
        return made

    publish.create_record = counting
    vectors, appends, times = np.ones((BATCH, DIM), DTYPE), [], []
    with zstore.Writer(url, codec="raw", session="growth", member=number, commit_every_s=None) as writer:
        time.sleep(max(begin - time.time(), 0))
        started = time.time()
        for at in range(commits):
            ids = ids_of(np.arange(at * BATCH, (at + 1) * BATCH) + number * commits * BATCH)
            first = time.perf_counter()
            writer.append(ids, vectors)
            second = time.perf_counter()
            writer.commit()
            appends.append(second - first)
            times.append(time.perf_counter() - second)
        ended = time.time()
    return {"begin": started, "end": ended, "append_us": 1e6 * float(np.median(appends)),
            "commit_ms": 1e3 * float(np.median(times)), "lost": lost}


def _path() -> str:
    return os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)])
