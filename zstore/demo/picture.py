"""The demo's picture: how the classes separate over the epochs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from zstore._typing import Array

matplotlib.use("Agg")

import matplotlib.pyplot as plt

PANELS = 6
# Ten hues that stay apart on white, also for most colour-blind eyes (Tol's and Wong's sets).
COLOURS = ["#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#E6AB02", "#CC6677", "#882255", "#AA4499", "#7F7F7F"]
INK, FAINT = "#222222", "#8a8a8a"


def draw(path: Path, vectors: Mapping[int, Array], labels: Mapping[int, Array], accuracy: Mapping[int, float],
         traced: Mapping[int, int], name: str) -> None:
    """Draw the epochs side by side, in the plane of the last one.

    ``vectors`` and ``labels`` hold one array per epoch, ``accuracy`` a share of 1; ``traced[epoch]`` is the row of the
    sample that is ringed, ``name`` its id.
    """
    centre, axes = plane(vectors[max(vectors)])
    shown = spread(sorted(vectors), PANELS)
    points = {epoch: (vectors[epoch] - centre) @ axes.T for epoch in shown}
    low, high = limits(np.concatenate(list(points.values())))
    figure, panels = plt.subplots(1, len(shown), figsize=(2.7 * len(shown) + 0.4, 3.95), dpi=150, squeeze=False)
    figure.subplots_adjust(left=0.012, right=0.988, top=0.76, bottom=0.135, wspace=0.05)
    for panel, epoch in zip(panels[0], shown, strict=True):
        scatter(panel, points[epoch], labels[epoch], traced[epoch])
        panel.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        panel.set_title(f"epoch {epoch}", fontsize=11, color=INK, pad=18)
        panel.text(0.5, 1.025, f"1-NN {accuracy[epoch]:.1%}", transform=panel.transAxes, ha="center", fontsize=9,
                   color=FAINT)
    explain(figure, name, len(vectors[max(vectors)]), vectors[max(vectors)].shape[1])
    figure.savefig(path, facecolor="white")
    plt.close(figure)


def plane(vectors: Array) -> tuple[Array, Array]:
    """The centre of the vectors, and the two directions in which they differ most."""
    centre = vectors.mean(axis=0)
    return centre, np.linalg.svd(vectors - centre, full_matrices=False)[2][:2]


def spread(epochs: list[int], most: int) -> list[int]:
    """At most ``most`` of the epochs, the first and the last among them, closer at the start, where most happens."""
    if len(epochs) <= most:
        return epochs
    places = np.unique(np.rint(np.linspace(0, 1, most) ** 1.6 * (len(epochs) - 1)).astype(int))
    return [epochs[place] for place in places]


def limits(points: Array) -> tuple[Array, Array]:
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def scatter(panel: Any, points: Array, labels: Array, traced: int) -> None:
    order = np.random.default_rng(0).permutation(len(points))       # no class lies on top of all others
    panel.scatter(*points[order].T, s=5, c=[COLOURS[label] for label in labels[order]], linewidths=0, alpha=0.8,
                  rasterized=True)
    panel.scatter(*points[traced], s=110, facecolors="none", edgecolors="white", linewidths=3.4)
    panel.scatter(*points[traced], s=110, facecolors="none", edgecolors=INK, linewidths=1.6)
    panel.set(xticks=[], yticks=[])
    for spine in panel.spines.values():
        spine.set_color("#dddddd")


def explain(figure: Any, name: str, samples: int, dim: int) -> None:
    figure.text(0.012, 0.935, "How the classes separate while the network trains", fontsize=14, weight="bold",
                color=INK)
    figure.text(0.988, 0.935, f"{samples:,} handwritten digits · {dim}-dimensional penultimate layer · "
                "PCA of the last epoch", fontsize=9, color=FAINT, ha="right")
    marks = [plt.Line2D([], [], marker="o", ls="", ms=7, color=colour, label=str(digit))
             for digit, colour in enumerate(COLOURS)]
    marks.append(plt.Line2D([], [], marker="o", ls="", ms=9, mfc="none", mec=INK, mew=1.6, label=name))
    figure.legend(handles=marks, loc="lower center", ncols=len(marks), frameon=False, fontsize=9, handletextpad=0.1,
                  columnspacing=1.6, labelcolor=INK)
