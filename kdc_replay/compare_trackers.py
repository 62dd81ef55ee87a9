"""Compare the tracker with public box trackers on made scenes with exact truth; Markdown and JSON.

    python -m kdc_replay.compare_trackers --out out/trackers --seeds 5

Every tracker gets the same detections. Two questions are asked of its answers:

- identities: does each DETECTED person have the right id? Exact, no overlap threshold. The detector's misses weigh on
  nobody.
- everybody: is EVERYBODY in view where the tracker says (box IoU), the overlooked and the hidden too? Predicted boxes
  count as answers.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdc_replay.peers import Answer, Runner, all_runners
from kdc_replay.scenes.sequences import Frame, Scene, crossing_scenes, other_scenes
from kdc_replay.scenes.walkers import IMAGE_HW
from kdc_replay.track_scores import FrameObjects, TrackScores, score_ids, score_tracks

COLUMNS = ("switches", "IDF1", "HOTA", "MOTA", "IDF1 all", "HOTA all", "MOTA all")


@dataclass(frozen=True)
class Row:
    """One tracker on one scene: sum of the id switches and means of the other scores over the seeds."""

    group: str
    scene: str
    tracker: str
    seeds: int
    identities: dict[str, float]
    everybody: dict[str, float]

    def figures(self) -> list[str]:
        """In the order of COLUMNS."""
        ratios = [side[name] for side in (self.identities, self.everybody) for name in ("idf1", "hota", "mota")]
        return [f"{self.identities['id_switches']:.0f}", *(f"{ratio:.3f}" for ratio in ratios)]


def score_identities(frames: Sequence[Frame], answers: Sequence[Answer]) -> TrackScores:
    """Does each detected person have the right id?"""
    truth, found, similarity = [], [], []
    for frame, answer in zip(frames, answers):
        stood_by = answer.ids > 0
        truth.append(np.unique(frame.sources[frame.sources >= 0]))
        found.append(answer.ids[stood_by])
        similarity.append((truth[-1][:, None] == frame.sources[stood_by][None]).astype(float))
    return score_ids(truth, found, similarity)


def score_everybody(frames: Sequence[Frame], answers: Sequence[Answer]) -> TrackScores:
    """Is everybody in view, hidden and overlooked ones too, where the tracker says?"""
    truth, found = [], []
    for frame, answer in zip(frames, answers):
        centre = (answer.predicted_boxes[:, :2] + answer.predicted_boxes[:, 2:]) / 2
        inside = ((centre >= 0) & (centre < IMAGE_HW[::-1])).all(1)
        stood_by = answer.ids > 0
        truth.append(FrameObjects(frame.truth_ids, frame.truth_boxes))
        found.append(
            FrameObjects(
                np.concatenate([answer.ids[stood_by], answer.predicted_ids[inside]]),
                np.concatenate([frame.people.boxes_xyxy[stood_by], answer.predicted_boxes[inside]]),
            )
        )
    return score_tracks(truth, found)


def compare(groups: dict[str, list[Scene]], seeds: Sequence[int], runners: dict[str, Runner]) -> list[Row]:
    """Every tracker on every scene with every seed; ours and theirs see the very same frames."""
    rows = []
    for group, scenes in groups.items():
        for scene in scenes:
            scores: dict[str, list[tuple[TrackScores, TrackScores]]] = {name: [] for name in runners}
            for seed in seeds:
                frames = list(scene.frames(seed))
                for name, run in runners.items():
                    answers = run(frames)
                    scores[name].append((score_identities(frames, answers), score_everybody(frames, answers)))
            for name, results in scores.items():
                identities, everybody = (_summary([pair[i] for pair in results]) for i in (0, 1))
                rows.append(Row(group, scene.name, name, len(seeds), identities, everybody))
                print(f"{scene.name}: {name}: {' '.join(rows[-1].figures())}", file=sys.stderr)
    return rows


def _summary(scores: list[TrackScores]) -> dict[str, float]:
    mean = {name: float(np.mean([getattr(s, name) for s in scores])) for name in ("hota", "assa", "idf1", "mota")}
    counts = ("id_switches", "fragmentations")
    return mean | {name: float(sum(getattr(s, name) for s in scores)) for name in counts}


def markdown(rows: Sequence[Row]) -> str:
    """The tables, one for each group of scenes, with a line for all of its scenes at the end."""
    lines = []
    for group in dict.fromkeys(row.group for row in rows):
        lines += ["", f"### {group}", "", "| scene | tracker | " + " | ".join(COLUMNS) + " |"]
        lines.append("| --- | --- |" + " ---: |" * len(COLUMNS))
        members = [row for row in rows if row.group == group]
        lines += [f"| {row.scene} | {row.tracker} | " + " | ".join(row.figures()) + " |" for row in members]
        for name in dict.fromkeys(row.tracker for row in members):
            figures = np.array([row.figures() for row in members if row.tracker == name], float)
            ratios = " | ".join(f"{value:.3f}" for value in figures[:, 1:].mean(0))
            lines.append(f"| **all** | {name} | {figures[:, 0].sum():.0f} | {ratios} |")
    return "\n".join(lines).strip() + "\n"


def scene_groups(pattern: str = "*") -> dict[str, list[Scene]]:
    """The made scenes by group, those whose name matches."""
    groups = {
        "Crossing, everybody who is visible is detected": crossing_scenes(),
        "Crossing, 10 % missed, 0.2 false detections a frame": crossing_scenes(0.1, 0.2),
        "Other scenes, 10 % missed, 0.2 false detections a frame": other_scenes(0.1, 0.2),
    }
    kept = {name: [s for s in scenes if fnmatch.fnmatch(s.name, pattern)] for name, scenes in groups.items()}
    return {name: scenes for name, scenes in kept.items() if scenes}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; write them to `--out` too. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m kdc_replay.compare_trackers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="folder for trackers.md and trackers.json")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each scene with different noise (default: 5)")
    parser.add_argument("--first-seed", type=int, default=100, help="the seeds go up from here (default: 100)")
    parser.add_argument("--scenes", default="*", metavar="PATTERN", help="only scenes named like this: 'crossing*'")
    args = parser.parse_args(arguments)
    if args.seeds < 1:
        parser.error("--seeds must be at least 1")
    groups = scene_groups(args.scenes)
    if not groups:
        parser.error(f"no scene is named like {args.scenes!r}")
    try:
        rows = compare(groups, range(args.first_seed, args.first_seed + args.seeds), all_runners())
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table = markdown(rows)
    print(table)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "trackers.md").write_text(table)
        (args.out / "trackers.json").write_text(json.dumps([vars(row) for row in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
