"""Which frames of a run deserve a look, and why: with annotations where it was wrong, without where it seems so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from kdc_replay.run_reader import Run, RunFrame

Box = tuple[float, float, float, float]  # x_min, y_min, x_max, y_max in pixels of the source image

_OF_EACH_KIND = 3
# Findings of a kind so near to each other are one.
_APART_S = 0.5
_JOINT_SCORE = 0.2
# Whoever appears this near to the picture's edge, as a share of its size, walked in.
_EDGE_SHARE = 0.04
_FIRST_S = 0.5
_JUMP_WITHIN_S = 0.5
_LEAST_JUMP_SIZES = 0.15
_LEAST_DROP = 0.1
_LOW_OKS = 0.8


@dataclass(frozen=True)
class Finding:
    """One reason to look at a frame.

    place:  position in `Run.frames`.
    kind:   what is wrong; reason: the same with figures, for people.
    weight: how bad, comparable within a kind.
    boxes:  where to look.
    """

    place: int
    kind: str
    reason: str
    weight: float
    boxes: tuple[Box, ...] = ()


@dataclass
class WorstFrame:
    """A frame with all findings about it."""

    place: int
    findings: list[Finding] = field(default_factory=list)


def worst_frames(run: Run, limit: int = 12) -> list[WorstFrame]:
    """The worst of each kind in turn, at most `limit` frames, in the order of the run."""
    if run.metrics is not None and run.metrics["frames_annotated"]:
        found = list(_wrong(run))
    else:
        found = list(_suspicious(run))
    times = run.times_s()
    by_kind: dict[str, list[Finding]] = {}
    for finding in sorted(found, key=lambda f: (-f.weight, f.place)):
        by_kind.setdefault(finding.kind, []).append(finding)
    chosen: dict[int, WorstFrame] = {}
    by_kind = {kind: _apart(findings, times) for kind, findings in by_kind.items()}
    # The worst of every kind before the second of any.
    for rank in range(_OF_EACH_KIND):
        for apart in by_kind.values():
            if rank < len(apart) and len(chosen) < limit:
                chosen.setdefault(apart[rank].place, WorstFrame(apart[rank].place))
    for finding in found:
        if finding.place in chosen:
            chosen[finding.place].findings.append(finding)
    return [chosen[place] for place in sorted(chosen)] or _samples(run)


def _samples(run: Run) -> list[WorstFrame]:
    """Some frames of a run that nothing stands out in."""
    count = len(run.frames)
    places = sorted({count // 6, count // 2, count - 1 - count // 6}) if count else []
    return [WorstFrame(p, [Finding(p, "sample", f"a sample: {len(run.frames[p])} people", 0.0)]) for p in places]


def _apart(findings: list[Finding], times_s: np.ndarray) -> list[Finding]:
    """The worst few findings of a kind that do not show the same moment."""
    kept: list[Finding] = []
    for finding in findings:
        if all(abs(times_s[k.place] - times_s[finding.place]) >= _APART_S for k in kept):
            kept.append(finding)
        if len(kept) == _OF_EACH_KIND:
            break
    return kept


def _wrong(run: Run) -> Iterator[Finding]:
    """What the annotations say."""
    assert run.metrics is not None
    place_of = {frame.index: place for place, frame in enumerate(run.frames)}
    changes: dict[int, list[dict[str, int]]] = {}
    for change in run.metrics["id_changes"]:
        changes.setdefault(change["index"], []).append(change)
    for row in run.metrics["per_frame"]:
        place = place_of[row["index"]]
        if row["missed"]:
            boxes = tuple((x, y, x + w - 1, y + h - 1) for x, y, w, h in row["missed_xywh"])
            yield Finding(place, "missed", f"{row['missed']} of {row['persons']} missed", row["missed"], boxes)
        if row["false_people"]:
            boxes = tuple(tuple(box) for box in row["false_xyxy"])
            text = f"{row['false_people']} found where nobody is"
            yield Finding(place, "false", text, row["false_people"], boxes)
        if row["id_changes"]:
            here = changes[row["index"]]
            text = "id changed: " + ", ".join(f"{c['before']} became {c['after']}" for c in here)
            frame = run.frames[place]
            boxes = tuple(_box(frame, frame.ids.tolist().index(c["after"])) for c in here)
            yield Finding(place, "id", text, row["id_changes"], boxes)
        if row["oks"] is not None and row["oks"] < _LOW_OKS:
            yield Finding(place, "oks", f"mean OKS {row['oks']:.2f}", 1 - row["oks"])


def _suspicious(run: Run) -> Iterator[Finding]:
    """What looks wrong without annotations: joints that leap, scores that drop, people out of nowhere."""
    times = run.times_s()
    usual = _usual_scores(run.frames)
    seen: dict[int, tuple[int, int]] = {}
    for place, frame in enumerate(run.frames):
        for person, track_id in enumerate(frame.ids.tolist()):
            if track_id == 0:
                continue
            box = _box(frame, person)
            if track_id not in seen:
                if times[place] > _FIRST_S and not _at_edge(frame, person):
                    score = float(frame.scores[person])
                    yield Finding(
                        place, "birth", f"id {track_id} begins amid the picture (score {score:.2f})", score, (box,)
                    )
            else:
                before, earlier = seen[track_id]
                if 0 < times[place] - times[before] <= _JUMP_WITHIN_S:
                    jump = _jump_sizes(run.frames[before], earlier, frame, person)
                    if jump >= _LEAST_JUMP_SIZES:
                        text = f"id {track_id} leaps by {jump:.0%} of its size"
                        yield Finding(place, "jump", text, jump, (box,))
            seen[track_id] = (place, person)
            drop = usual[track_id] - float(frame.scores[person])
            if drop >= _LEAST_DROP:
                text = f"id {track_id} scores {frame.scores[person]:.2f}, usually {usual[track_id]:.2f}"
                yield Finding(place, "score", text, drop, (box,))


def _usual_scores(frames: list[RunFrame]) -> dict[int, float]:
    """Median score of each id."""
    scores: dict[int, list[float]] = {}
    for frame in frames:
        for track_id, score in zip(frame.ids.tolist(), frame.scores.tolist()):
            scores.setdefault(track_id, []).append(score)
    return {track_id: float(np.median(values)) for track_id, values in scores.items()}


def _jump_sizes(before: RunFrame, earlier: int, frame: RunFrame, person: int) -> float:
    """Median way of the joints that both frames are sure of, over the person's size; 0 where too few are."""
    one, other = before.keypoints[earlier], frame.keypoints[person]
    sure = (one[:, 2] >= _JOINT_SCORE) & (other[:, 2] >= _JOINT_SCORE)
    if sure.sum() < 3:
        return 0.0
    low, high = frame.boxes_xyxy[person].reshape(2, 2)
    size = float(np.sqrt(max(1.0, float((high - low + 1).prod()))))
    way = np.linalg.norm(other[sure, :2] - one[sure, :2], axis=1)
    return float(np.median(way)) / size


def _at_edge(frame: RunFrame, person: int) -> bool:
    height, width = frame.image_hw
    x_min, y_min, x_max, y_max = _box(frame, person)
    margin = _EDGE_SHARE * max(height, width)
    return x_min < margin or y_min < margin or x_max > width - 1 - margin or y_max > height - 1 - margin


def _box(frame: RunFrame, person: int) -> Box:
    x_min, y_min, x_max, y_max = frame.boxes_xyxy[person].astype(float).tolist()
    return x_min, y_min, x_max, y_max
