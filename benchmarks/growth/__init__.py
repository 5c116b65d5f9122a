"""How zstore's costs grow: one sweep per axis, `python -m benchmarks growth [axis ...]`.

Every point of a sweep is a store in which one thing is larger than in the point before: rows, epochs, commits, dims, members or
preemptions. What each point costs is measured in fresh processes; a slope between the last points says how it grows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.growth import report
from benchmarks.growth.measure import Sweep

AXES = ("rows", "epochs", "commits", "dims", "members", "preemptions")


def sweep(axis: str, most: int | None, toy: bool, folder: str | None) -> dict[str, Any]:
    """One axis: {"axis", "points": [...], "machine": {...}, "growth": {measure: slope}}. Its stores are removed."""
    module = import_module(f"benchmarks.growth.{axis}")
    limit = most or (module.TOY if toy else module.MOST)
    with tempfile.TemporaryDirectory(prefix=f"zstore-growth-{axis}-", dir=folder) as place:
        points = module.run(Sweep(Path(place), toy), limit)
    return {"axis": axis, "points": points, "machine": report.machine(), "growth": report.growth(points)}


def main(argv: list[str]) -> int:
    """Sweep, print a table per axis, and leave the JSON where it is asked for. 1 where something grows beyond its bound."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks growth", description=__doc__.splitlines()[0])
    parser.add_argument("axes", nargs="*", metavar="axis", help=f"{', '.join(AXES)}; default: all")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--toy", action="store_true", help="two small points of each axis, to see that it runs")
    size.add_argument("--most", type=float, metavar="N", help="the last point, such as 1e8")
    parser.add_argument("--json", metavar="FILE", help="where the results go; {axis} in its name is replaced, else one list")
    parser.add_argument("--dir", metavar="FOLDER", help="where the stores are made, and removed")
    args = parser.parse_args(argv)
    unknown = [axis for axis in args.axes if axis not in AXES]
    if unknown:
        parser.error(f"no axis {unknown[0]!r}; there is {', '.join(AXES)}")
    results, bad = [], 0
    for axis in args.axes or AXES:
        found = sweep(axis, None if args.most is None else int(args.most), args.toy, args.dir)
        results.append(found)
        print(report.table(found), flush=True)
        bad += len(report.beyond(found))
        if args.json and "{axis}" in args.json:
            Path(args.json.replace("{axis}", axis)).write_text(json.dumps(found, indent=1) + "\n")
    if args.json and "{axis}" not in args.json:
        Path(args.json).write_text(json.dumps(results, indent=1) + "\n")
    return 1 if bad and not args.toy else 0
