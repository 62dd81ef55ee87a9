"""One picture of all measurements: a bar for each case, made of its stages' medians."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdc_bench.result import SuiteResult

_WIDTH_IN, _BAR_IN, _FRAME_IN = 9.0, 0.32, 1.3


def plot(path: Path, machine: dict[str, Any], results: dict[str, SuiteResult]) -> None:
    """Draw the suites one above the other into a PNG file."""
    heights = [_FRAME_IN + _BAR_IN * len(result.rows) for result in results.values()]
    figure = Figure(figsize=(_WIDTH_IN, sum(heights) + 0.4), layout="constrained")
    grid = figure.add_gridspec(len(results), 1, height_ratios=heights)
    for place, result in enumerate(results.values()):
        _bars(figure.add_subplot(grid[place]), result)
    versions = machine["versions"]
    figure.suptitle(
        f"{machine['cpu']}, {machine['cores_usable']} cores; onnxruntime {versions.get('onnxruntime', '-')}", fontsize=9
    )
    figure.savefig(path, dpi=110)


def _bars(axes: Axes, result: SuiteResult) -> None:
    stages = list(dict.fromkeys(stage for row in result.rows for stage in row.stages if stage != "total"))
    colours = matplotlib.colormaps["tab10"]
    names = [", ".join(str(v) for v in row.case.values()) for row in result.rows]
    left = [0.0] * len(result.rows)
    for number, stage in enumerate(stages):
        medians = [row.stages[stage].p50 if stage in row.stages else 0.0 for row in result.rows]
        axes.barh(range(len(names)), medians, left=left, color=colours(number % 10), label=stage)
        left = [a + b for a, b in zip(left, medians)]
    for place, total in enumerate(left):
        at = (total, float(place))
        axes.annotate(f"{total:.1f}", at, xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, max([*left, 1e-3]) * 1.12)
    axes.set_xlabel("median, ms", fontsize=8)
    axes.set_title(result.title + "\n(" + ", ".join(result.rows[0].case) + ")", fontsize=9, loc="left")
    axes.tick_params(axis="x", labelsize=8)
    axes.legend(fontsize=7, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
