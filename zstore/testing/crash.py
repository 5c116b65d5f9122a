"""Kill at every call, lose power at every moment, kill at random times, and print what came of it.

    python -m zstore.testing.crash             a sample, some minutes
    python -m zstore.testing.crash --full      every call, every moment, 1,000 kills at random times: hours
    python -m zstore.testing.crash --s3        kills at the requests to a local S3 server instead; with --full at every one
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from zstore.testing.kills import KINDS, calls_of, kill_everywhere
from zstore.testing.life import Place
from zstore.testing.outages import journal_of, lose_everywhere
from zstore.testing.storms import storm

SPARE = 20      # threads make one run a few calls longer than another


def main(arguments: list[str] | None = None) -> int:
    """0 where nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m zstore.testing.crash", description=__doc__)
    parser.add_argument("--full", action="store_true", help="every call and every moment")
    parser.add_argument("--kills", type=int, help="kills at random times (default: 1,000 with --full, else 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the random times (default: 0)")
    parser.add_argument("--s3", action="store_true", help="at requests to S3 instead")
    options = parser.parse_args(arguments)
    step = 1 if options.full else 20
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="zstore-crash-") as name:
        said = _distant(Path(name), step, problems) if options.s3 else _local(Path(name), step, options, problems)
    print(*problems, sep="\n", end="\n" if problems else "")
    print(f"{said}, problems: {len(problems)}")
    return 1 if problems else 0


def _local(folder: Path, step: int, options: argparse.Namespace, problems: list[str]) -> str:
    kills = _kills(folder, step, problems)
    states = _outages(folder, step, problems)
    tally = storm(folder, options.kills or (1000 if options.full else 100), options.seed)
    problems += tally.problems
    print(f"killed at random times: {tally.kills} members, {tally.commits} commits and {tally.rows} rows told", flush=True)
    return f"{kills + tally.kills} kills, {states} states after a power loss, rows lost: {tally.lost}"


def _distant(folder: Path, step: int, problems: list[str]) -> str:
    from zstore.testing.requests import kill_at_requests, requests_of
    from zstore.testing.s3 import Server

    total = 0
    with Server() as server:
        for kind in KINDS:
            last = requests_of(kind, Place(server.url(), server.options), folder)
            for answered in (False, True):
                kills, wrong = kill_at_requests(kind, server, folder, range(1, last + SPARE, step), answered=answered)
                total += kills
                problems += wrong
            print(f"{kind}: {last} requests, {total} kills and {len(problems)} problems so far", flush=True)
    return f"{total} kills at requests"


def _kills(folder: Path, step: int, problems: list[str]) -> int:
    total = 0
    for kind in KINDS:
        kinds = calls_of(kind, folder / f"{kind}-whole")
        numbers = range(1, len(kinds) + SPARE, step)
        writes = [n for n, call in enumerate(kinds, 1) if call == "write"][::step]
        for torn, at in ((False, list(numbers)), (True, writes)):
            kills, wrong = kill_everywhere(kind, folder, at, torn=torn)
            total += kills
            problems += wrong
        print(f"{kind}: killed at {len(numbers)} of {len(kinds)} calls and in {len(writes)} writes, {len(problems)} problems "
              "so far", flush=True)
    return total


def _outages(folder: Path, step: int, problems: list[str]) -> int:
    total = 0
    for kind in KINDS:
        journal = journal_of(kind, folder / f"{kind}-disk")
        count, wrong = lose_everywhere(kind, journal, folder, None if step == 1 else range(0, len(journal.entries), step))
        total += count
        problems += wrong
        print(f"{kind}: {count} states after a power loss at {len(journal.entries)} moments, {len(problems)} problems so far",
              flush=True)
    return total


if __name__ == "__main__":
    sys.exit(main())
