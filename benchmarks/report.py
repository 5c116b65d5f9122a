"""The README's table, the paragraph on where zstore loses, and a plot per scenario: all from the results that were kept.

    python -m benchmarks report            writes them
    python -m benchmarks report --check    says whether the README is what the results give
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.figures import Figure
from benchmarks.growth import AXES
from benchmarks.growth import readme as growth_readme
from benchmarks.run import best_of, ratio
from benchmarks.scenarios import NAMES

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- benchmarks: made by `python -m benchmarks report` -->", "<!-- benchmarks end -->"
GROWTH_BEGIN, GROWTH_END = "<!-- growth: made by `python -m benchmarks report` -->", "<!-- growth end -->"
RAW, LOSSLESS = "zstore raw", "zstore lossless"
# What the README shows: scenario, figure, the words for it.
LINES = (
    ("append", "rows", "append, 256 rows a batch, durable every 50"),
    ("append", "commit", "a commit in that loop"),
    ("training", "append call", "what a 10 ms training step pays per batch, p99"),
    ("gather", "warm", "10,000 random rows, warm"),
    ("gather", "first touch", "the same, first call of a process"),
    ("gather", "cold", "the same, from the disk"),
    ("keys", "keys", "10,000 random (id, epoch)"),
    ("one_row", "one key", "one (id, epoch), p99"),
    ("scan", "first touch", "all rows, first scan of a process"),
    ("scan", "again", "all rows, again"),
    ("epoch_slice", "epoch, preempted five times", "one epoch as a matrix, preempted five times"),
    ("open", "open and count", "open"),
    ("resume", "ready to append", "go on after a kill"),
)


def main(argv: list[str]) -> int:
    """The exit status: 1 where --check finds another text."""
    parser = argparse.ArgumentParser("python -m benchmarks report", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args(argv)
    results, old = load(), README.read_text()
    new = made(old, results)
    if args.check:
        print("the README is what the results give" if new == old else "the README is not what the results give")
        return int(new != old)
    README.write_text(new)
    from benchmarks import plot
    from benchmarks.growth.plot import draw as draw_growth
    for found in growth_readme.load(RESULTS, AXES).values():
        draw_growth(found, RESULTS)
    for result in results.values():
        plot.draw(result, RESULTS / f"{result['scenario']}.svg")
    return 0


def load(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """The kept results by scenario."""
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in NAMES if (folder / f"{name}.json").exists()}


def made(text: str, results: dict[str, dict[str, Any]]) -> str:
    """The README with both tables as the kept results give them."""
    text = replaced(text, section(results), BEGIN, END)
    return replaced(text, growth_readme.section(growth_readme.load(RESULTS, AXES)), GROWTH_BEGIN, GROWTH_END)


def replaced(text: str, piece: str, begin: str, end: str) -> str:
    """The text with what stands between the two marks replaced."""
    head, found, rest = text.partition(begin)
    _, ended, tail = rest.partition(end)
    if not (found and ended):
        raise SystemExit(f"{README.name} lacks {begin!r} or {end!r}")
    return f"{head}{begin}\n{piece}\n{end}{tail}"


def section(results: dict[str, dict[str, Any]]) -> str:
    """Table and paragraph."""
    if not results:
        return "No results are kept."
    lines = ["| | unit | zstore raw | best other, not compressed | zstore lossless | best other, compressed |",
             "|---|---|---|---|---|---|"]
    for scenario, name, words in LINES:
        if scenario in results:
            lines.append(_line(results[scenario], name, words))
    first = next(iter(results.values()))
    notes = ("In brackets: how many times better zstore is; medians over rounds. Others count where they are as durable as "
             "zstore. Everyone else, who lost and who was skipped: `benchmarks/results/`.")
    return "\n".join([*lines, "", f"{_where(first)} {notes}", "", losses(results)])


def _where(result: dict[str, Any]) -> str:
    return f"{machine.line(result['machine'])}, {result['machine']['time']}; rows of {result['dim']} {result['dtype']}."


def _figure(result: dict[str, Any], name: str) -> Figure:
    return Figure(**next(f for f in result["figures"] if f["name"] == name))


def _line(result: dict[str, Any], name: str, words: str) -> str:
    figure, cells = _figure(result, name), []
    for mine, compressed in ((RAW, False), (LOSSLESS, True)):
        best = best_of(result, figure, peers(result, compressed))
        has = name in result["contenders"].get(mine, {}).get("figures", {})
        cells += [_value(result, figure, mine) if has else "-",
                  f"{_value(result, figure, best)} {best}" + (f" ({ratio(result, figure, mine, best):.2g} ×)" if has else "")
                  if best else "-"]
    return f"| {words} | {figure.unit.replace('us', 'µs')} | {' | '.join(cells)} |"


def peers(result: dict[str, Any], compressed: bool) -> list[str]:
    """The others that compress, or don't, and are as durable."""
    return [n for n, c in result["contenders"].items() if not n.startswith("zstore") and c["compressed"] == compressed
            and c.get("durable", True)]


def _value(result: dict[str, Any], figure: Figure, name: str) -> str:
    value = result["contenders"][name]["figures"][figure.name]["value"]
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def losses(results: dict[str, dict[str, Any]]) -> str:
    """Every figure in which somebody as durable is better than the better of zstore raw and lossless."""
    found = []
    for scenario, result in results.items():
        for known in result["figures"]:
            figure = Figure(**known)
            mine = best_of(result, figure, [n for n in (RAW, LOSSLESS) if n in result["contenders"]])
            best = best_of(result, figure, [n for compressed in (False, True) for n in peers(result, compressed)])
            if mine and best and ratio(result, figure, best, mine) > 1.02:
                found.append(f"{scenario.replace('_', ' ')}, {figure.name} ({best} {ratio(result, figure, best, mine):.2g} ×)")
    return "zstore loses in: " + ("; ".join(found) if found else "nothing that was measured") + "."
