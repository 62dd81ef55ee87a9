"""A comparison for people: as text, and as compare.html, which needs no network and no other file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from kdc_replay.charts import Series, line_chart
from kdc_replay.compare import BY_ANNOTATIONS, Comparison, FrameChange
from kdc_replay.compare_metrics import MetricChange
from kdc_replay.report import render
from kdc_replay.report_pictures import film_pictures, picture_uri
from kdc_replay.run_folder import whole, write_json
from kdc_replay.run_reader import Run

PAGE_NAME = "compare.html"
JSON_NAME = "compare.json"
_MOST_PICTURES = 6
_MEASURE_NOTES = {
    True: "A frame's score: mean OKS over everybody annotated or wrongly found; missed and false people count 0.",
    False: "How far the runs are apart: 1 - mean OKS of one to the other over everybody found by either, "
    "IoU of the masks for people without keypoints; who is in one run only counts as wholly different.",
}


def format_comparison(comparison: Comparison) -> str:
    """What changed, for a terminal."""
    lines = [f"note: {note}" for note in comparison.notes]
    lines += [f"{o.name}: {o.first} -> {o.second}" for o in comparison.options] or ["options: the same"]
    width = max(len(m.name) for m in comparison.metrics)
    lines.append(f"{'':{width}} {comparison.first[:12]:>12} {comparison.second[:12]:>12} {'change':>10}")
    for metric in comparison.metrics:
        first, second, change = metric_text(metric)
        lines.append(f"{metric.name:{width}} {first:>12} {second:>12} {change:>10} {metric.verdict}".rstrip())
    lines.append(_apart(comparison))
    by_annotations = comparison.measure == BY_ANNOTATIONS
    for heading, frames in (
        ("worse" if by_annotations else "most different", comparison.worse()),
        ("better", comparison.better()),
    ):
        if frames:
            lines.append(f"{heading}: " + "; ".join(frame_text(frame) for frame in frames[:5]))
    if by_annotations and not comparison.worse() and not comparison.better():
        lines.append("no frame got better or worse")
    return "\n".join(lines)


def write_comparison(folder: Path, comparison: Comparison, first: Run, second: Run) -> Path:
    """Write compare.json and compare.html; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / JSON_NAME, comparison.to_dict())
    page = render("compare.html.jinja", _context(comparison, first, second))
    with whole(folder / PAGE_NAME) as part:
        part.write_text(page, encoding="utf-8")
    return folder / PAGE_NAME


def metric_text(metric: MetricChange) -> tuple[str, str, str]:
    """First, second and change as text."""

    def text(value: float | None, sign: str = "") -> str:
        if value is None:
            return "none"
        return f"{value:{sign}.{metric.decimals}f}"

    return text(metric.first), text(metric.second), "" if metric.change is None else text(metric.change, "+")


def frame_text(frame: FrameChange) -> str:
    """A frame's change in words."""
    if frame.first is None or frame.second is None:
        people = f"{frame.people_first} and {frame.people_second} people"
        return f"frame {frame.index}: apart by {frame.change:.2f}, {people}"
    return f"frame {frame.index}: {frame.first:.2f} -> {frame.second:.2f}"


def _apart(comparison: Comparison) -> str:
    return (
        f"people in {comparison.first} only: {comparison.only_first}, in {comparison.second} only: "
        f"{comparison.only_second}; in both, with ids that differ beyond renaming: {comparison.id_mismatches}"
    )


def _context(comparison: Comparison, first: Run, second: Run) -> dict[str, Any]:
    by_annotations = comparison.measure == BY_ANNOTATIONS
    bags = ", ".join(first.info.get("bags", []))
    galleries = [
        (
            "worse",
            "Frames that got worse" if by_annotations else "Frames that differ most",
            _gallery(comparison.worse(), first, second),
        )
    ]
    if by_annotations:
        galleries.append(("better", "Frames that got better", _gallery(comparison.better(), first, second)))
    metrics = []
    for metric in comparison.metrics:
        one, other, change = metric_text(metric)
        row = {"name": metric.name, "first": one, "second": other, "change": change}
        metrics.append({**row, "verdict": metric.verdict})
    return {
        "title": f"kdc compare: {comparison.first} and {comparison.second}",
        "first": comparison.first,
        "second": comparison.second,
        "subheading": f"{bags}, topic {first.info.get('topic', 'unknown')}: {len(comparison.frames)} frames compared",
        "notes": comparison.notes,
        "options": comparison.options,
        "metrics": metrics,
        "apart": _apart(comparison),
        "measure_note": _MEASURE_NOTES[by_annotations],
        "frames_chart": Markup(_frames_chart(comparison, by_annotations)),
        "people_chart": Markup(_people_chart(comparison)),
        "curves": _curves(first, second) if by_annotations else [],
        "galleries": galleries,
    }


def _axis(comparison: Comparison) -> tuple[np.ndarray, str]:
    times = np.array([frame.time_s for frame in comparison.frames])
    if (np.diff(times) > 0).all():
        return times, "seconds"
    return np.array([float(frame.index) for frame in comparison.frames]), "frame"


def _frames_chart(comparison: Comparison, by_annotations: bool) -> str:
    x, label = _axis(comparison)
    if not by_annotations:
        return line_chart([Series("apart", x, np.array([f.change for f in comparison.frames]))], label, "apart", (0, 1))
    names = {"first": comparison.first, "second": comparison.second}
    series = [Series(name, x, np.array([getattr(f, side) for f in comparison.frames])) for side, name in names.items()]
    return line_chart(series, label, "frame score", (0.0, 1.0))


def _people_chart(comparison: Comparison) -> str:
    x, label = _axis(comparison)
    series = [
        Series(comparison.first, x, np.array([float(f.people_first) for f in comparison.frames]), step=True),
        Series(comparison.second, x, np.array([float(f.people_second) for f in comparison.frames]), step=True),
    ]
    return line_chart(series, label, "people", height=150)


def _curves(first: Run, second: Run) -> list[tuple[str, Markup]]:
    charts = []
    for kind, name in (("keypoints", "keypoints, mean over OKS 0.50:0.05:0.95"), ("segm", "masks, mean over IoU")):
        curves = [(run.name, run.metrics["curves"][kind]) for run in (first, second) if run.metrics]
        if all(curve for _, curve in curves):
            series = [Series(run, np.linspace(0, 1, len(c["mean"])), np.array(c["mean"])) for run, c in curves]
            charts.append((name, Markup(line_chart(series, "recall", "precision", (0.0, 1.02), (0.0, 1.0)))))
    return charts


def _gallery(changes: list[FrameChange], first: Run, second: Run) -> list[dict[str, Any]]:
    """The frames with both runs' pictures, as far as the runs have films."""
    shown = changes[:_MOST_PICTURES]
    indices = [change.index for change in shown]
    pictures = [(run, film_pictures(run)(indices)) for run in (first, second)]
    frames = [{frame.index: frame for frame in run.frames} for run in (first, second)]
    entries = []
    for change in shown:
        uris = [picture_uri(p.get(change.index), f[change.index], ()) for (_, p), f in zip(pictures, frames)]
        text = frame_text(change).partition(": ")[2]
        entry = {"index": change.index, "when": f"{change.time_s:.2f} s", "text": text}
        entries.append({**entry, "uris": uris if all(uris) else []})
    return entries
