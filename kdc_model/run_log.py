"""What a training run leaves to look at: `log.csv`, TensorBoard events, and `curves.png`."""

from __future__ import annotations

import contextlib
import csv
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)


class RunLog:
    """Appends rows of means to `log.csv` and, where the package `tensorboard` is there, its event files.

    `first_step`: where this run goes on; what TensorBoard has from a later step of an interrupted run is hidden.
    """

    def __init__(self, out: Path, first_step: int) -> None:
        self._path = out / "log.csv"
        self._board = _board(out / "tensorboard", first_step)

    def write(self, step: int, means: dict[str, float]) -> None:
        """Add the means since the last row."""
        append_row(self._path, {"step": step, **{name: f"{v:.5f}" for name, v in means.items()}})
        self.scalars("loss" if "total" in means else "run", step, means)

    def scalars(self, group: str, step: int, values: dict[str, float]) -> None:
        """Add numbers to TensorBoard alone."""
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """Write what is still in memory."""
        if self._board is not None:
            self._board.close()


def _board(folder: Path, first_step: int) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.info("no TensorBoard events: the package 'tensorboard' is not installed")
        return None
    return SummaryWriter(str(folder), purge_step=first_step or None)


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row to a CSV file, with the names where it begins; a row before it that a crash cut off stays apart."""
    with path.open("a+b") as file:
        size = file.tell()
        if size:
            file.seek(-1, os.SEEK_END)
        cut_off = size > 0 and file.read(1) != b"\n"
    with path.open("a", newline="") as text:
        if cut_off:
            text.write("\r\n")
        writer = csv.DictWriter(text, row.keys())
        if not size:
            writer.writeheader()
        writer.writerow(row)


def write_curves(out: Path) -> Path | None:
    """Draw `curves.png` of the run's `log.csv` and `scores.csv`; None where there is nothing to draw.

    A resumed run may have logged some steps twice: the last row of a step counts.
    """
    losses, scores = read_columns(out / "log.csv"), read_columns(out / "scores.csv")
    if not losses and not scores:
        return None
    from matplotlib.figure import Figure

    names = [name for name in losses if name != "step"]
    panels = [*names, *(["scores"] if scores else [])]
    columns = 3
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.6 * rows), layout="constrained")
    for number, name in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        if name == "scores":
            for score in scores:
                if score != "step":
                    axes.plot(scores["step"], scores[score], marker="o", markersize=3, label=score)
            axes.legend(fontsize=6)
        else:
            axes.plot(losses["step"], losses[name], linewidth=0.6, alpha=0.4, color="tab:blue")
            axes.plot(losses["step"], _smoothed(losses[name]), linewidth=1.4, color="tab:blue")
    path = out / "curves.png"
    partial = path.with_suffix(".partial")
    figure.savefig(partial, dpi=110, format="png")
    partial.replace(path)
    return path


def read_columns(path: Path) -> dict[str, list[float]]:
    """A CSV file's columns as numbers, one row for each step in rising order; empty without the file or such rows.

    The last row of a step counts; a row that is not one number for each name is left out.
    """
    if not path.is_file():
        return {}
    with path.open(newline="", errors="replace") as file:
        reader = csv.DictReader(file)
        names = list(reader.fieldnames or [])
        rows: dict[float, list[float]] = {}
        for row in reader:
            with contextlib.suppress(TypeError, ValueError):  # cut off by a full disk or a crash
                numbers = [float(row[name]) for name in names]
                if None not in row:  # more of them than names
                    rows[numbers[names.index("step")]] = numbers
    return dict(zip(names, (list(column) for column in zip(*(rows[step] for step in sorted(rows))))))


def _smoothed(values: list[float], share: float = 0.9) -> list[float]:
    """Exponential mean, unbiased at its start."""
    out, mean, weight = [], 0.0, 0.0
    for value in values:
        mean = share * mean + (1 - share) * value
        weight = share * weight + (1 - share)
        out.append(mean / weight)
    return out
