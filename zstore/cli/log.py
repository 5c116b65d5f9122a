"""The history of a store, newest first: version, time, rows, what it added, tag, and who wrote it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import zstore
from zstore.cli import output, stores
from zstore.cli.output import Usage

EXAMPLES = """\
  zstore log runs/a.zarr
  zstore log runs/a.zarr -n 10 --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    stores.add_url(parser)
    parser.add_argument("-n", type=int, metavar="COUNT", help="only the newest COUNT versions")


def run(args: argparse.Namespace) -> int:
    if args.n is not None and args.n < 1:
        raise Usage("-n takes a number of versions, 1 or more")
    commits = list(reversed(zstore.history(args.url, storage_options=stores.storage_options(args))))[:args.n]
    output.emit(args, {"url": output.redact(args.url), "commits": [_facts(c) for c in commits]}, _lines(commits))
    return output.OK


def _facts(c: zstore.Commit) -> dict[str, Any]:
    return {"version": c.version, "commit_id": c.commit_id, "time": c.time, "rows": c.rows, "new_rows": c.new_rows,
            "duplicates": c.duplicates, "nonfinite": c.nonfinite, "tag": c.tag, "meta": c.meta, "opens": c.opens,
            "session": c.session, "host": c.host, "pid": c.pid, "member": c.member}


def _lines(commits: list[zstore.Commit]) -> Iterator[str]:
    if not commits:
        return
    version = max(len(str(c.version)) for c in commits)
    rows = max(len(f"{c.rows:,}") for c in commits)
    new = max(len(f"{c.new_rows:,}") for c in commits)
    for c in commits:
        tag = f"  [{c.tag}]" if c.tag else ""
        opens = "  opened a session" if c.opens else ""
        yield (f"{c.version:>{version}}  {c.when}  {c.rows:>{rows},} rows  {f'+{c.new_rows:,}':>{new + 1}}"
               f"  {c.host}/{c.pid}{opens}{tag}")
