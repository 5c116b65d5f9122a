"""Two checkouts of zstore, in turn, by the same benchmarks: ratios with their spread.

    python -m benchmarks compare v0.1.0 .                    a revision of this repository, or a folder
    python -m benchmarks compare HEAD . append gather --rounds 7
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import statistics
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import process
from benchmarks.figures import Figure, ratio_to
from benchmarks.run import Options, Run, say
from benchmarks.scenarios import NAMES

LOCAL = [name for name in NAMES if name != "remote"]
MINE = ("zstore raw", "zstore lossless")


def parser() -> argparse.ArgumentParser:
    """The command line of compare."""
    made = argparse.ArgumentParser("python -m benchmarks compare", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("a", help="the checkout that ratios are against: a folder, or a revision")
    made.add_argument("b", help="the other; above 1 it is better")
    made.add_argument("scenario", nargs="*", metavar="SCENARIO", help=f"default: {', '.join(LOCAL)}")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--rows", type=int)
    made.add_argument("--dim", type=int, default=384)
    made.add_argument("--data", default="real")
    made.add_argument("--url", help="a folder on the disk to measure")
    made.add_argument("--only", action="append", default=[], metavar="NAME", help=f"default: {', '.join(MINE)}")
    made.add_argument("--json", action="store_true")
    return made


def main(argv: list[str]) -> int:
    """The exit status."""
    args = parser().parse_args(argv)
    wrong = [name for name in args.scenario if name not in NAMES]
    if wrong:
        parser().error(f"{wrong[0]!r} is no scenario; they are: {', '.join(NAMES)}")
    place = Path(tempfile.mkdtemp(prefix="compare-", dir=args.url))
    try:
        sides = [checkout(args.a, place / "a"), checkout(args.b, place / "b")]
        found = [_compare(name, sides, args, place) for name in args.scenario or LOCAL]
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print(json.dumps(found) if args.json else "\n".join(_text(one, args) for one in found))
    return 0


def checkout(name: str, folder: Path) -> Path:
    """The folder that holds the package ``zstore`` at ``name``: itself a folder, or a revision that is unpacked."""
    if (Path(name) / "zstore" / "__init__.py").exists():
        return Path(name).resolve()
    command = ["git", "-C", str(process.ROOT), "archive", name, "zstore", "zstore_bfloat16.py"]
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{name!r} is neither a folder with zstore in it nor a revision: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _compare(name: str, sides: list[Path], args: argparse.Namespace, place: Path) -> dict[str, Any]:
    """A and B in turn, each a whole run of one round, so that both meet the same weather."""
    rounds: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for number in range(args.rounds):
        say(f"{name}: round {number + 1} of {args.rounds}")
        pair = []
        for side, folder in enumerate(sides if number % 2 == 0 else sides[::-1]):
            stores = place / f"stores-{side}"
            stores.mkdir(exist_ok=True)
            options = Options(str(stores), args.rows, args.dim, data=args.data, rounds=1, only=tuple(args.only) or MINE,
                              checkout=folder)
            pair.append(Run(name, options, with_limits=False).result())
        rounds.append((pair[0], pair[1]) if number % 2 == 0 else (pair[1], pair[0]))
    figures = [Figure(**f) for f in rounds[0][0]["figures"]]
    names = [n for n in args.only or MINE if all(n in side["contenders"] for pair in rounds for side in pair)]
    return {"scenario": name, "ratios": {n: {f.name: _ratios(rounds, n, f) for f in figures} for n in names}}


def _ratios(rounds: list[tuple[dict[str, Any], dict[str, Any]]], name: str, figure: Figure) -> list[float]:
    """How much better B was, round by round, lowest first; [] where one of them has no such figure."""
    found = [[side["contenders"][name]["figures"].get(figure.name, {}).get("value") for side in pair] for pair in rounds]
    return sorted(ratio_to([b], [a], figure) for a, b in found if a and b)


def _text(one: dict[str, Any], args: argparse.Namespace) -> str:
    head = f"{one['scenario']}: {args.b} over {args.a}, above 1 is better"
    lines = [f"{head:62}{'median':>9}{'lowest':>9}{'highest':>9}{'rounds':>8}"]
    for name, figures in one["ratios"].items():
        for figure, ratios in figures.items():
            if ratios:
                lines.append(f"  {name + ', ' + figure:60}{statistics.median(ratios):9.2f}{ratios[0]:9.2f}{ratios[-1]:9.2f}"
                             f"{len(ratios):8}")
    return "\n".join(lines) + "\n"
