"""report.html: a run on one page that needs no network and no other file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from kdc_core.draw import colour_of
from kdc_core.skeleton import KEYPOINT_NAMES
from kdc_replay.accuracy_section import accuracy_section, ratio
from kdc_replay.charts import WIDTH, Series, Span, TimelineRow, bar_chart, histogram, line_chart, timeline
from kdc_replay.node_section import node_section
from kdc_replay.report_pictures import PictureSource, film_pictures, picture_uri
from kdc_replay.run_folder import REPORT_NAME, whole
from kdc_replay.run_reader import Run, load_run
from kdc_replay.time_axis import TimeAxis
from kdc_replay.worst_frames import worst_frames

_MOST_TRACKS = 60


def write_report(folder: Path, pictures: PictureSource | None = None) -> Path:
    """Write report.html of a finished run folder and return its path. Raises RunError.

    pictures: gives recorded pictures, uint8 RGB (H, W, 3), by the frames' indices; without, the annotated film of
    the folder does (with the people drawn already), and without that there are no pictures.
    """
    run = load_run(folder)
    path = folder / REPORT_NAME
    page = render("report.html.jinja", report_context(run, pictures))
    with whole(path) as part:
        part.write_text(page, encoding="utf-8")
    return path


def render(template: str, context: Mapping[str, Any]) -> str:
    """A page from one of the templates; text is escaped, Markup is not."""
    environment = Environment(
        loader=PackageLoader("kdc_replay"),
        autoescape=select_autoescape(["html", "jinja"], default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(context) + "\n"


def report_context(run: Run, pictures: PictureSource | None) -> dict[str, Any]:
    """What the template shows."""
    axis = TimeAxis(run)
    heading = ", ".join(bag_names(run)) or run.name
    rows, left_out = _timeline_rows(run, axis)
    scored = bool(run.metrics and run.metrics["frames_annotated"])
    if scored:
        note = "By the annotations: people missed (dashed) or found where nobody is, changed ids, low OKS."
    else:
        note = "Without annotations, what looks odd: joints that leap, scores that drop, people out of nowhere."
    return {
        "title": f"kdc replay: {heading}",
        "heading": heading,
        "subheading": f"topic {run.info.get('topic', 'unknown')}",
        "warnings": warnings_of(run),
        "summary": _summary(run, axis),
        "people_chart": Markup(_people_chart(run, axis)),
        "timeline": Markup(timeline(rows, axis.label, axis.range)) if rows else "",
        "tracks_left_out": left_out,
        "accuracy": accuracy_section(run, axis),
        "worst": _worst(run, axis, pictures or film_pictures(run)),
        "worst_note": note,
        "score_chart": Markup(histogram({"people": _all_scores(run)}, "score", (0.0, 1.0))),
        "joint_chart": Markup(bar_chart(_joint_scores(run), "mean score", (0.0, 1.0))),
        "node": node_section(run, axis),
        "timing": _timing(run),
        "run_facts": facts_of(run.info),
    }


def bag_names(run: Run) -> list[str]:
    """Names of the bags, whether run.json has a list or one."""
    bags = run.info.get("bags", run.info.get("bag", []))
    names = bags if isinstance(bags, list) else [bags]
    return [str(b.get("name", b)) if isinstance(b, dict) else str(b) for b in names]


def warnings_of(run: Run) -> list[str]:
    """What the reader must know before believing a figure."""
    warnings = []
    if not run.info.get("finished", True):
        warnings.append("This run was interrupted: what follows is a part of the bag.")
    if not run.frames:
        warnings.append("Not one frame was evaluated.")
    warnings += [f"{count} frames dropped: {reason}" for reason, count in run.dropped.items()]
    notes = run.info.get("notes", [])
    return warnings + [str(note) for note in (notes if isinstance(notes, list) else [notes])]


def facts_of(info: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """run.json as rows of a table."""
    rows = []
    for name, value in info.items():
        label = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            rows += facts_of(value, f"{prefix}{name}: ")
        elif isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
            for i, entry in enumerate(value):
                rows += facts_of(entry, f"{prefix}{name} {i + 1}: ") if isinstance(entry, Mapping) else []
        else:
            rows.append((label, _fact(value)))
    return rows


def _fact(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_fact, value)) or "none"
    return str(value)


def _summary(run: Run, axis: TimeAxis) -> list[tuple[str, str]]:
    people = [len(frame) for frame in run.frames]
    ids = {i for frame in run.frames for i in frame.ids.tolist() if i}
    cards = [
        (f"{len(run.frames)}", "frames evaluated"),
        (f"{sum(run.dropped.values())}", "frames dropped"),
        (f"{np.mean(people):.2f}" if people else "none", "people a frame"),
        (f"{len(ids)}", "track ids"),
    ]
    if axis.label == "seconds" and len(run.frames) > 1:
        span = axis.x[-1] - axis.x[0]
        cards.insert(1, (f"{span:.1f} s", f"at {(len(run.frames) - 1) / span:.1f} frames/s"))
    if run.metrics is not None and run.metrics["frames_annotated"]:
        tracking = run.metrics["tracking"] or {}
        cards += [
            (ratio(run.metrics["keypoints"]["AP"]), "keypoint AP"),
            (ratio(run.metrics["segm"]["AP"]), "mask AP"),
            (ratio(run.metrics["person_iou"]), "person IoU"),
        ]
        if tracking:
            cards += [
                (ratio(tracking["hota"]), "HOTA"),
                (ratio(tracking["idf1"]), "IDF1"),
                (str(tracking["id_switches"]), "id switches"),
            ]
    return cards


def _people_chart(run: Run, axis: TimeAxis) -> str:
    found = np.array([len(frame) for frame in run.frames], float)
    series = [Series("found", axis.x, found, step=True)]
    if run.metrics is not None and run.metrics["frames_annotated"]:
        truth = {row["index"]: row["persons"] for row in run.metrics["per_frame"]}
        annotated = np.array([truth.get(frame.index, np.nan) for frame in run.frames], float)
        series.append(Series("annotated", axis.x, annotated, step=True))
    return line_chart(series, axis.label, "people", x_range=axis.range)


def _timeline_rows(run: Run, axis: TimeAxis) -> tuple[list[TimelineRow], int]:
    """A row for each id in the order of their first sight, and how many short tracks were left out."""
    seen: dict[int, list[tuple[int, str]]] = {}
    for place, frame in enumerate(run.frames):
        for track_id, state in zip(frame.ids.tolist(), frame.states):
            if track_id:
                seen.setdefault(track_id, []).append((place, state))
    marks: dict[int, list[tuple[float, str]]] = {}
    place_of = {frame.index: place for place, frame in enumerate(run.frames)}
    for change in (run.metrics or {}).get("id_changes", []):
        text = f"person {change['truth_id']} was id {change['before']} before"
        marks.setdefault(change["after"], []).append((float(axis.x[place_of[change["index"]]]), text))
    longest = sorted(seen, key=lambda i: (-len(seen[i]), i))[:_MOST_TRACKS]
    rows = [
        TimelineRow(str(i), colour_of(i), _spans(places, axis), marks.get(i, []))
        for i, places in seen.items()
        if i in set(longest)
    ]
    return rows, len(seen) - len(rows)


def _spans(places: list[tuple[int, str]], axis: TimeAxis) -> list[Span]:
    """Consecutive frames of one state as one span; so are those whose gap is too short to be seen."""
    hair = (axis.range[1] - axis.range[0]) / WIDTH
    spans: list[Span] = []
    before = -2
    for place, state in places:
        start, end = float(axis.x[place]), float(axis.ends[place])
        joined = place == before + 1 and start <= spans[-1].end
        if spans and spans[-1].kind == state and (joined or start - spans[-1].end < hair):
            spans[-1] = Span(spans[-1].start, end, state)
        else:
            spans.append(Span(start, end, state))
        before = place
    return spans


def _all_scores(run: Run) -> list[float]:
    return [score for frame in run.frames for score in frame.scores.tolist()]


def _joint_scores(run: Run) -> dict[str, float]:
    scores = [frame.keypoints[..., 2] for frame in run.frames if len(frame)]
    means = np.concatenate(scores).mean(0) if scores else np.full(len(KEYPOINT_NAMES), np.nan)
    return {name.replace("_", " "): float(mean) for name, mean in zip(KEYPOINT_NAMES, means)}


def _worst(run: Run, axis: TimeAxis, source: PictureSource) -> list[dict[str, Any]]:
    worst = worst_frames(run)
    pictures = source([run.frames[w.place].index for w in worst])
    entries = []
    for frame in worst:
        found = run.frames[frame.place]
        entries.append(
            {
                "index": found.index,
                "when": axis.when(frame.place),
                "reasons": [finding.reason for finding in frame.findings],
                "uri": picture_uri(pictures.get(found.index), found, frame.findings),
            }
        )
    return entries


def _timing(run: Run) -> dict[str, Any] | None:
    if not run.stage_ms:
        return None
    total = np.sum(list(run.stage_ms.values()), axis=0)
    rows = []
    for name, values in {**run.stage_ms, "all": total}.items():
        p50, p95, highest = np.percentile(values, [50, 95, 100])
        rows.append([name.replace("_", " "), f"{p50:.1f}", f"{p95:.1f}", f"{highest:.1f}"])
    # A first frame that warms up must not squeeze all others into one bar.
    limit = float(np.percentile(total, 99)) * 1.1
    return {"rows": rows, "chart": Markup(histogram({"frames": total.tolist()}, "ms a frame", (0.0, max(1.0, limit))))}


