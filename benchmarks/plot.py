"""A picture per scenario: a bar per contender, a panel per figure, the limit as a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.figures import Figure

ZSTORE, OTHER, LIMIT = "#1f6f8b", "#b9c4c9", "#c4502e"


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the picture, SVG or PNG by the path's ending; the same result gives the same bytes."""
    import matplotlib
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "zstore"
    matplotlib.rcParams["svg.fonttype"] = "none"        # text as text: fewer bytes
    from matplotlib import pyplot
    figures = [f for f in (Figure(**known) for known in result["figures"])
               if any(f.name in c["figures"] for c in result["contenders"].values())]
    most = max(len(result["contenders"]), 3)
    canvas, panels = pyplot.subplots(1, len(figures), figsize=(5.2 * len(figures), 0.9 + 0.27 * most), squeeze=False)
    for panel, figure in zip(panels[0], figures, strict=True):
        _panel(panel, result, figure)
    canvas.suptitle(f"{result['scenario'].replace('_', ' ')}: {result['rows']:,} × {result['dim']} {result['dtype']}",
                    fontsize=10)
    canvas.tight_layout()
    canvas.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(canvas)


def _panel(panel: Any, result: dict[str, Any], figure: Figure) -> None:
    having = {n: c["figures"][figure.name] for n, c in result["contenders"].items() if figure.name in c["figures"]}
    names = sorted(having, key=lambda n: having[n]["value"], reverse=not figure.more_is_better)
    values = [having[n]["value"] for n in names]
    spread = [[v - having[n]["low"] for n, v in zip(names, values, strict=True)],
              [having[n]["high"] - v for n, v in zip(names, values, strict=True)]]
    panel.barh(names, values, xerr=spread, color=[ZSTORE if n.startswith("zstore") else OTHER for n in names],
               error_kw={"elinewidth": 0.8, "ecolor": "#444444"})
    for limit, value in result["limits"].get(figure.name, {}).items():
        panel.axvline(value, color=LIMIT, linewidth=0.8, linestyle="--")
        panel.annotate(limit, (value, 0), rotation=90, fontsize=6, color=LIMIT, xytext=(2, 2), textcoords="offset points",
                       va="bottom")
    if min(values) > 0 and max(values) / min(values) > 30:
        panel.set_xscale("log")
    better = "more is better" if figure.more_is_better else "less is better"
    panel.set_title(f"{figure.name}, {figure.unit}{' (p99)' if figure.head == 'p99' else ''}; {better}", fontsize=8)
    panel.tick_params(labelsize=7)
    panel.spines[["top", "right"]].set_visible(False)
