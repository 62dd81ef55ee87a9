"""What changed between two runs of the same bag: options, metrics, and frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kdc_replay.agreement import Agreement, agree, renaming
from kdc_replay.compare_metrics import MetricChange, figure_changes, score_changes
from kdc_replay.run_reader import Run, RunFrame

# Of run.json: what came out rather than what was asked for.
_OUTCOMES = frozenset({"finished", "frames", "dropped", "people", "tracks", "notes"})
# Smaller changes of a frame's score are not worth naming.
_LEAST_CHANGE = 0.02
_MOST_LISTED = 12

BY_ANNOTATIONS, BY_AGREEMENT = "annotations", "agreement"


class CompareError(ValueError):
    """Two runs that have nothing to compare; the message says why."""


@dataclass(frozen=True)
class OptionChange:
    """A field of run.json that differs, as text."""

    name: str
    first: str
    second: str


@dataclass(frozen=True)
class FrameChange:
    """A frame of both runs.

    By annotations `first` and `second` are the frame's scores (see `frame_score`) and `change` is their difference.
    By agreement both are None, and `change` is how far the runs are apart: 1 - `Agreement.similarity`.
    """

    index: int
    time_s: float
    first: float | None
    second: float | None
    change: float
    people_first: int
    people_second: int


@dataclass(frozen=True)
class Comparison:
    """Two runs beside each other.

    measure: BY_ANNOTATIONS or BY_AGREEMENT, what the frames are compared by.
    only_first, only_second: people over all common frames who are in one run alone.
    id_mismatches: people in both whose ids differ beyond the best renaming.
    """

    first: str
    second: str
    measure: str
    options: list[OptionChange]
    metrics: list[MetricChange]
    frames: list[FrameChange]
    only_first: int
    only_second: int
    id_mismatches: int
    notes: list[str]

    def worse(self) -> list[FrameChange]:
        """The frames that got worse, the worst first; by agreement those that differ, the most different first."""
        if self.measure == BY_AGREEMENT:
            return self._first(lambda frame: -frame.change, [f for f in self.frames if f.change > 1e-9])
        return self._first(lambda frame: frame.change, [f for f in self.frames if f.change < -_LEAST_CHANGE])

    def better(self) -> list[FrameChange]:
        """The frames that got better, the best first; none by agreement."""
        if self.measure == BY_AGREEMENT:
            return []
        return self._first(lambda frame: -frame.change, [f for f in self.frames if f.change > _LEAST_CHANGE])

    @staticmethod
    def _first(order: Callable[[FrameChange], float], frames: list[FrameChange]) -> list[FrameChange]:
        return sorted(frames, key=lambda frame: (order(frame), frame.index))[:_MOST_LISTED]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "worse": [f.index for f in self.worse()], "better": [f.index for f in self.better()]}


def compare_runs(first: Run, second: Run) -> Comparison:
    """Compare two runs. Raises CompareError where they have no frame in common."""
    common = _common_frames(first, second)
    notes = _notes(first, second, len(common))
    scored = _scores_comparable(first, second, notes)
    agreements = [agree(a, b) for a, b in common]
    time_of = dict(zip((frame.index for frame in first.frames), first.times_s().tolist()))
    if scored:
        frames = _by_annotations(first, second, common, time_of)
    else:
        frames = [
            FrameChange(a.index, time_of[a.index], None, None, 1 - agreement.similarity, len(a), len(b))
            for (a, b), agreement in zip(common, agreements)
        ]
    return Comparison(
        first=first.name,
        second=second.name,
        measure=BY_ANNOTATIONS if scored else BY_AGREEMENT,
        options=_option_changes(first.info, second.info),
        metrics=[*(score_changes(first, second) if scored else []), *figure_changes(first, second)],
        frames=frames,
        only_first=sum(len(a.only_first) for a in agreements),
        only_second=sum(len(a.only_second) for a in agreements),
        id_mismatches=_id_mismatches(common, agreements),
        notes=notes,
    )


def _id_mismatches(common: list[tuple[RunFrame, RunFrame]], agreements: list[Agreement]) -> int:
    ids = [
        (int(a.ids[pair.first]), int(b.ids[pair.second]))
        for (a, b), agreement in zip(common, agreements)
        for pair in agreement.pairs
    ]
    names = renaming(ids)
    return sum(names.get(one, 0) != other for one, other in ids if one)


def frame_score(row: Mapping[str, Any]) -> float:
    """One figure for an annotated frame (an entry of metrics.json's per_frame), 0..1.

    Mean OKS (IoU of masks where no keypoints are annotated) over everybody annotated or wrongly found; who was
    missed or is not there counts 0. 1 where nobody is annotated and nobody was found.
    """
    everybody = row["persons"] + row["false_people"]
    if everybody == 0:
        return 1.0
    quality = row["oks"] if row["oks"] is not None else row["mask_iou"]
    if quality is None:  # boxes alone are annotated
        quality = row["found"] / row["persons"] if row["persons"] else 0.0
    return float(quality * row["persons"] / everybody)


def _common_frames(first: Run, second: Run) -> list[tuple[RunFrame, RunFrame]]:
    of_index = {frame.index: frame for frame in second.frames}
    common = [
        (frame, of_index[frame.index])
        for frame in first.frames
        if frame.index in of_index and of_index[frame.index].time_ns == frame.time_ns
    ]
    if not common:
        of = [f"{r.name} is of {', '.join(r.info.get('bags', ['?']))} {r.info.get('topic')}" for r in (first, second)]
        raise CompareError(f"the runs have not one frame in common: {of[0]}, {of[1]}")
    if sizes := [a.index for a, b in common if a.image_hw != b.image_hw]:
        raise CompareError(f"frame {sizes[0]} has another size in the other run: these are not the same pictures")
    return common


def _notes(first: Run, second: Run, common: int) -> list[str]:
    notes = []
    for run, other in ((first, second), (second, first)):
        if not run.info.get("finished", True):
            notes.append(f"{run.name} was interrupted")
        if (more := len(run.frames) - common) > 0:
            of_all = f"{more} of {len(run.frames)} frames of {run.name}"
            notes.append(f"{of_all} are not in {other.name}: frames are compared without them")
    if first.info.get("bags") != second.info.get("bags"):
        notes.append("the bags have different names, but the same frames")
    return notes


def _scores_comparable(first: Run, second: Run, notes: list[str]) -> bool:
    """Whether both were scored against the same annotations; says why not."""
    without = [run.name for run in (first, second) if run.metrics is None]
    if len(without) == 2:
        return False
    if without:
        notes.append(f"{without[0]} was not scored: frames are compared by how far the runs are apart")
        return False
    one, other = (run.info.get("annotations", {}).get("sha256") for run in (first, second))
    if one != other:
        notes.append("the runs were scored against different annotations: their scores are not compared")
        return False
    assert first.metrics is not None and second.metrics is not None
    annotated = [{row["index"] for row in run.metrics["per_frame"]} for run in (first, second) if run.metrics]
    if annotated[0] != annotated[1]:
        notes.append("the scores are over different frames: see the frames, not the totals")
    return True


def _by_annotations(
    first: Run, second: Run, common: list[tuple[RunFrame, RunFrame]], time_of: dict[int, float]
) -> list[FrameChange]:
    before, after = (frame_scores(run) for run in (first, second))
    return [
        FrameChange(i, time_of[i], before[i], after[i], after[i] - before[i], len(a), len(b))
        for a, b in common
        if (i := a.index) in before and i in after
    ]


def frame_scores(run: Run) -> dict[int, float]:
    """`frame_score` of every annotated frame of a scored run, by index."""
    return {row["index"]: frame_score(row) for row in (run.metrics or {}).get("per_frame", [])}


def _text(value: Any) -> str:
    return "not set" if value is None else str(value)


def _option_changes(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> list[OptionChange]:
    changes = []
    for name in [*first, *(n for n in second if n not in first)]:
        one, other = first.get(name), second.get(name)
        if one == other or (not prefix and name in _OUTCOMES):
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            changes += _option_changes(one, other, f"{prefix}{name}.")
        else:
            changes.append(OptionChange(f"{prefix}{name}", _text(one), _text(other)))
    return changes
