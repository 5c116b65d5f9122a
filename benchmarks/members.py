"""How many commits a second a shared session makes, and how often a member loses a number.

    python -m benchmarks members [--members 1 2 4 8] [--seconds 5] [--dir FOLDER] [--url URL -o key=value ...] [--json]

Every member is a process of its own that appends 8 rows of 32 float32 and commits, again and again, as fast as it can:
the worst case. Printed for each number of members: commits a second of the whole store, lost numbers for each commit
that was made (a lost one is made again after the new head), the slowest and the luckiest member's share, the longest commit.
`growth members` asks the same members what a store costs that many of them made.
At the end every row is counted: all of them once. Ratios count; the times are this machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import zstore
from benchmarks.growth import measure

ROWS, DIM = 8, 32
ROOT = Path(__file__).resolve().parents[1]
_CODE = "import json, sys; from benchmarks import members; print(json.dumps(members.member(*json.loads(sys.argv[1]))))"


def member(url: str, number: int, seconds: float, begin: float, options: dict[str, Any]) -> dict[str, Any]:
    """One process's part: what it committed, lost and waited."""
    from zstore.commits import publish

    create, lost = publish.create_record, 0

    def counted(*args: Any) -> bool:
        nonlocal lost
        made = create(*args)
        lost += not made
        return made

    publish.create_record = counted
    vectors, appends, commits = np.ones((ROWS, DIM), np.float32), [], []
    with zstore.Writer(url, codec="raw", session="bench", member=number, commit_every_s=None,
                       storage_options=options or None) as writer:
        time.sleep(max(begin - time.time(), 0))
        while time.time() < begin + seconds or not commits:
            ids, start = ids_of(number, len(commits), 1), time.perf_counter()
            writer.append(ids, vectors)
            appended = time.perf_counter()
            writer.commit()
            appends.append(appended - start)
            commits.append(time.perf_counter() - appended)
    return {"commits": len(commits), "lost": lost, "longest": max(commits), "append": statistics.median(appends),
            "commit": statistics.median(commits)}


def ids_of(number: int, first: int, commits: int) -> Any:
    """(commits * 8,) int64: what a member appends in so many commits, from its ``first`` on."""
    return measure.ids_of(np.arange(first * ROWS, (first + commits) * ROWS) + number * 10**9)


def run(url: str, members: int, seconds: float, options: dict[str, Any]) -> dict[str, Any]:
    """One session of so many members; the result is checked row by row."""
    begin = time.time() + 2 + members / 2
    path = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)])
    command = [sys.executable, "-W", "ignore", "-c", _CODE]
    children = [subprocess.Popen([*command, json.dumps([url, number, seconds, begin, options])], stdout=subprocess.PIPE,
                                 text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}) for number in range(members)]
    try:
        shares = [json.loads(child.communicate(timeout=seconds + 120)[0]) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    commits = [share["commits"] for share in shares]
    with zstore.Reader(url, storage_options=options or None) as reader:
        wanted = np.concatenate([ids_of(number, 0, count) for number, count in enumerate(commits)])
        assert np.array_equal(np.sort(reader.ids), np.sort(wanted)), "rows were lost or doubled"
    lost = sum(share["lost"] for share in shares)
    return {"members": members, "commits": sum(commits), "per_second": sum(commits) / seconds, "lost": lost,
            "lost_per_commit": lost / max(sum(commits), 1), "fewest": min(commits), "most": max(commits),
            "append_us": 1e6 * statistics.median(share["append"] for share in shares),
            "member_commit_ms": 1e3 * statistics.median(share["commit"] for share in shares),
            "longest_ms": 1e3 * max(share["longest"] for share in shares)}


def main(argv: list[str]) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser("python -m benchmarks members", description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--dir", default=None, help="where the stores are made, and removed")
    parser.add_argument("--url", default=None, help="a remote place instead; what is made there stays")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="key=value")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    options = dict(option.split("=", 1) for option in args.options)
    folder = Path(tempfile.mkdtemp(prefix="zstore-members-", dir=args.dir))
    try:
        results = [run(f"{args.url.rstrip('/')}/{folder.name}-{count}" if args.url else str(folder / f"{count}.zarr"), count,
                       args.seconds, options) for count in args.members]
    finally:
        shutil.rmtree(folder)
    if args.json:
        print(json.dumps(results, indent=1))
        return 0
    print("members  commits/s  lost/commit  commits of the slowest and the luckiest member  longest commit")
    for r in results:
        print(f"{r['members']:7}  {r['per_second']:9.1f}  {r['lost_per_commit']:11.2f}  {r['fewest']:22} {r['most']:22}  "
              f"{r['longest_ms']:11.0f} ms")
    return 0
