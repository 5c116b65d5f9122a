"""A picture of a sweep: `python -m benchmarks.growth.plot FILE.json ... --out FOLDER`, one SVG per axis, log-log."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.growth.report import BOUNDS, FLAT, MEASURES

UNITS = {"us": "µs", "ms": "ms", "ns": "ns", "mb": "MB", "kb": "kB"}


def draw(found: dict[str, Any], out: Path) -> Path:
    """Small multiples, a measure each, with its slope; what grows more than it may is drawn in red. Gives the file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "zstore"      # the same picture from the same numbers
    matplotlib.rcParams["svg.fonttype"] = "none"        # text as text: fewer bytes
    points = found["points"]
    shown = [m for m in MEASURES if m in found["growth"]]
    columns = 5
    lines = -(-len(shown) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(3 * columns, 2.1 * lines), squeeze=False, layout="constrained")
    for place, measure in zip(axes.flat, shown, strict=False):
        known = [(p["at"], p[measure]) for p in points if p.get(measure) is not None]
        slope = found["growth"][measure]
        bad = slope > BOUNDS[found["axis"]].get(measure, FLAT)
        values = [max(value, 1e-3) for _, value in known]
        place.loglog([at for at, _ in known], values, "o-", color="tab:red" if bad else "tab:blue", markersize=3, linewidth=1.2)
        middle = (min(values) * max(values)) ** 0.5
        place.set_ylim(min(min(values) / 1.5, middle / 10), max(max(values) * 1.5, middle * 10))
        name, _, unit = measure.rpartition("_")
        title = f"{name.replace('_', ' ')}, {UNITS[unit]}" if unit in UNITS else measure.replace("_", " ")
        place.set_title(f"{title}  (slope {slope:.2f})", fontsize=8, color="tab:red" if bad else "black")
        place.tick_params(labelsize=7)
        place.grid(True, which="major", linewidth=0.3)
    for place in axes.flat[len(shown):]:
        place.axis("off")
    figure.suptitle(f"{found['axis']}: {points[0]['at']:,} to {points[-1]['at']:,}", fontsize=10)
    target = out / f"growth-{found['axis']}.svg"
    figure.savefig(target, metadata={"Date": None})
    pyplot.close(figure)
    return target


def main() -> None:
    """Draw every sweep of these files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="FILE.json")
    parser.add_argument("--out", default=".", metavar="FOLDER")
    args = parser.parse_args()
    for file in args.files:
        read = json.loads(Path(file).read_text())
        for found in read if isinstance(read, list) else [read]:
            print(draw(found, Path(args.out)))


if __name__ == "__main__":
    main()
