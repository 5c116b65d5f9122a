"""A result as text: one table per figure, the best first, losers too, and who was missing."""

from __future__ import annotations

from typing import Any

from benchmarks import machine
from benchmarks.figures import Figure
from benchmarks.run import best_of, ratio

REFERENCE = "np.memmap"


def text(result: dict[str, Any]) -> str:
    """The whole result, some screens of it."""
    lines = [f"{result['scenario']}: {' '.join(result['title'].split())}",
             f"{result['rows']:,} x {result['dim']} {result['dtype']}, {result['data']} vectors, {result['rounds']} rounds; "
             f"{machine.line(result['machine'])}"]
    for known in result["figures"]:
        figure = Figure(**known)
        lines += ["", *_figure(result, figure)]
    lines += ["", *(f"skipped: {name}: {why}" for name, why in result["skipped"].items()),
              *(f"partly: {name}: {c['partly']}" for name, c in result["contenders"].items() if c.get("partly"))]
    return "\n".join(lines).rstrip() + "\n"


def _figure(result: dict[str, Any], figure: Figure) -> list[str]:
    names = [n for n, c in result["contenders"].items() if figure.name in c["figures"]]
    if not names:
        return [f"{figure.name}: nobody has it"]
    best = best_of(result, figure, names) or names[0]
    names.sort(key=lambda n: result["contenders"][n]["figures"][figure.name]["value"], reverse=figure.more_is_better)
    head = (f"{figure.name}, {figure.unit}" + (", ranked by p99" if figure.head == "p99" else ""))
    lines = [f"{head:34}{'p50':>10}{'p90':>10}{'p99':>10}{'max':>10}  {'/ best':>7}{'rounds':>17}{'RSS MB':>8}{'MB':>7}"
             f"{'files':>7}  durability"]
    for name in names:
        one = result["contenders"][name]
        f = one["figures"][figure.name]
        lines.append(f"{name:34}{_n(f['p50'])}{_n(f['p90'])}{_n(f['p99'])}{_n(f['max'])}"
                     f"  {ratio(result, figure, name, best):7.2f}{_short(f['low']) + '-' + _short(f['high']):>17}"
                     f"{one['peak_rss_mb']:8.0f}{_mega(one['bytes'])}{_count(one['files'])}  {one['durability']}")
    for limit, value in result["limits"].get(figure.name, {}).items():
        mine = best_of(result, figure, [n for n in names if n.startswith("zstore")])
        closest = f"  ({mine} reaches {_share(result, figure, mine, value):.0%} of it)" if mine else ""
        lines.append(f"  limit: {limit}: {_short(value)} {figure.unit}{closest}")
    return lines


def _share(result: dict[str, Any], figure: Figure, name: str, limit: float) -> float:
    value = result["contenders"][name]["figures"][figure.name]["p50"]
    return float(value / limit if figure.more_is_better else limit / value)


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _n(value: float) -> str:
    return f"{_short(value):>10}"


def _mega(size: int | None) -> str:
    return f"{'-' if size is None else f'{size / 1e6:.0f}':>7}"


def _count(number: int | None) -> str:
    return f"{'-' if number is None else number:>7}"
