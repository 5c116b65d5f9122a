"""How many commits a second a shared session makes, and how often a member loses a number.

    python benchmarks/bench_members.py [--members 1 2 4 8] [--seconds 5] [--dir FOLDER] [--url URL -o key=value ...] [--json]

Every member is a process of its own that appends 8 rows of 32 float32 and commits, again and again, as fast as it can:
the worst case. Printed for each number of members: commits a second of the whole store, lost numbers for each commit
that was made (a lost one is made again after the new head), the slowest and the luckiest member's share, the longest commit.
At the end every row is counted: all of them once. Ratios count; the times are this machine's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import zstore

ROWS, DIM = 8, 32


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
    vectors, commits, longest = np.ones((ROWS, DIM), np.float32), 0, 0.0
    with zstore.Writer(url, session="bench", member=number, commit_every_s=None, storage_options=options or None) as writer:
        time.sleep(max(begin - time.time(), 0))
        while time.time() < begin + seconds:
            writer.append(np.arange(commits * ROWS, (commits + 1) * ROWS) + number * 10**9, vectors)
            start = time.perf_counter()
            writer.commit()
            longest = max(longest, time.perf_counter() - start)
            commits += 1
    return {"commits": commits, "lost": lost, "longest": longest}


def run(url: str, members: int, seconds: float, options: dict[str, Any]) -> dict[str, Any]:
    """One session of so many members; the result is checked row by row."""
    begin = time.time() + 2 + members / 2
    children = [subprocess.Popen([sys.executable, __file__, "--member", json.dumps([url, number, seconds, begin, options])],
                                 stdout=subprocess.PIPE, text=True) for number in range(members)]
    try:
        shares = [json.loads(child.communicate(timeout=seconds + 120)[0]) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    commits = [share["commits"] for share in shares]
    with zstore.Reader(url, storage_options=options or None) as reader:
        wanted = np.concatenate([np.arange(count * ROWS) + number * 10**9 for number, count in enumerate(commits)])
        assert np.array_equal(np.sort(reader.ids), np.sort(wanted)), "rows were lost or doubled"
    lost = sum(share["lost"] for share in shares)
    return {"members": members, "commits": sum(commits), "per_second": sum(commits) / seconds, "lost": lost,
            "lost_per_commit": lost / max(sum(commits), 1), "fewest": min(commits), "most": max(commits),
            "longest_ms": 1000 * max(share["longest"] for share in shares)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--dir", default=None, help="where the stores are made, and removed")
    parser.add_argument("--url", default=None, help="a remote place instead; what is made there stays")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="key=value")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--member", default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.member:
        print(json.dumps(member(*json.loads(args.member))))
        return
    options = dict(option.split("=", 1) for option in args.options)
    folder = Path(tempfile.mkdtemp(prefix="zstore-members-", dir=args.dir))
    try:
        results = [run(f"{args.url.rstrip('/')}/{folder.name}-{count}" if args.url else str(folder / f"{count}.zarr"), count,
                       args.seconds, options) for count in args.members]
    finally:
        shutil.rmtree(folder)
    if args.json:
        print(json.dumps(results, indent=1))
        return
    print("members  commits/s  lost/commit  commits of the slowest and the luckiest member  longest commit")
    for r in results:
        print(f"{r['members']:7}  {r['per_second']:9.1f}  {r['lost_per_commit']:11.2f}  {r['fewest']:22} {r['most']:22}  "
              f"{r['longest_ms']:11.0f} ms")


if __name__ == "__main__":
    main()
