"""What the demonstration found out: figures of the answers, comparison with the truth, and verdict."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import kdc_core
from kdc_core.types import People
from kdc_replay.demo_scene.photos import ALL_PHOTOS, ASTRONAUT, GRACE_HOPPER
from kdc_replay.demo_scene.truth import FrameMatch, Truth, compare
from kdc_ros.demo.journal import Published
from kdc_ros.demo.playlist import SCENE
from kdc_ros.demo.recorder import Answer, AnswerError
from kdc_ros.demo.session import Loaded, Session

# The verdict on the built-in pictures, see `judge`.
MUST_BE_FOUND = (ASTRONAUT.name, GRACE_HOPPER.name)
LEAST_SCENE_RECALL = 0.6
LEAST_SCENE_OKS = 0.5
MOST_FALSE_PERSONS_PER_FRAME = 0.5
_VERSIONS_OF = ("rclpy", "numpy", "opencv-python-headless", "onnxruntime")


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """An answered picture of which poses, masks, markers and picture agree. track_ids: int32 (N,), 0 = not tracked."""

    frame: Published
    answer: Answer
    people: People
    track_ids: np.ndarray


def check_answers(session: Session) -> tuple[list[Seen], list[str]]:
    """The answers that are sound, by stamp, and what is wrong with the others."""
    by_stamp = {frame.stamp_ns: frame for frame in session.published}
    sound, faults = [], []
    for answer in session.answers:
        try:
            if answer.stamp_ns not in by_stamp:
                raise AnswerError("no picture with this stamp was published")
            sound.append(Seen(by_stamp[answer.stamp_ns], answer, *answer.people()))
        except AnswerError as error:
            faults.append(f"answer to stamp {answer.stamp_ns}: {error}")
    return sound, faults


def make_report(
    session: Session, source: str | None, truth_of: Callable[[str, int], Truth] | None
) -> dict[str, Any]:
    """Everything as one JSON-serialisable dictionary, verdict included.

    source:   the user's input, None for the built-in pictures.
    truth_of: (clip, frame) -> truth, where it is known.
    """
    sound, faults = check_answers(session)
    matches = (
        {s.frame.stamp_ns: compare(truth_of(s.frame.clip, s.frame.index), s.people) for s in sound}
        if truth_of
        else {}
    )
    clips = {
        name: _clip_report(name, session.published, [s for s in sound if s.frame.clip == name], matches)
        for name in dict.fromkeys(frame.clip for frame in session.published)
    }
    span_s = (
        (session.published[-1].stamp_ns - session.published[0].stamp_ns) * 1e-9 if session.published else 0.0
    )
    report: dict[str, Any] = {
        "passed": False,
        "failures": [],
        "input": source or "built-in photographs",
        "frames_published": len(session.published),
        "frames_answered": len(sound),
        "persons_total": sum(len(s.people) for s in sound),
        "latency_ms": _latencies([s.answer for s in sound]),
        "answers_per_s": round(len(sound) / span_s, 2) if span_s > 0 else None,
        "model": _model(session.loaded),
        "backend": session.loaded.backend if session.loaded else None,
        "versions": versions(),
        "faulty_answers": faults,
        "clips": clips,
    }
    if truth_of is not None:
        report["credits"] = [photo.credit for photo in ALL_PHOTOS]
    report["failures"] = judge(report, known=truth_of is not None)
    report["passed"] = not report["failures"]
    return report


def judge(report: dict[str, Any], known: bool) -> list[str]:
    """What is wrong, a line each; empty when all is well. `known`: the true places of the people are known.

    The bounds leave room on both sides: a network that works finds nearly everybody in the scene, with an OKS
    above 0.8 and hardly a false person; where it guesses, or messages are mixed up, all three are far off.
    """
    failures = list(report["faulty_answers"][:3])
    if not report["frames_answered"]:
        return [*failures, "the node answered no picture"]
    if not known:
        return failures
    for name, clip in report["clips"].items():
        if not clip["frames_answered"]:
            failures.append(f"no picture of '{name}' was answered")
    for name in MUST_BE_FOUND:
        own = report["clips"].get(name, {}).get("truth")
        if own is not None and own["recall"] < 0.5:
            failures.append(f"the person in the photograph '{name}' was not found")
    scene = report["clips"].get(SCENE, {}).get("truth")
    if scene is not None:
        if scene["recall"] < LEAST_SCENE_RECALL:
            failures.append(f"only {scene['recall']:.0%} of the people in the scene were found")
        elif scene["oks"] is None or scene["oks"] < LEAST_SCENE_OKS:
            failures.append(
                f"the joints of the people in the scene are not where they should be (OKS {scene['oks']})"
            )
        if scene["false_persons_per_frame"] > MOST_FALSE_PERSONS_PER_FRAME:
            failures.append(
                f"{scene['false_persons_per_frame']} people per frame were reported that are none"
            )
    return failures


def _clip_report(
    name: str, published: list[Published], sound: list[Seen], matches: dict[int, FrameMatch]
) -> dict[str, Any]:
    report: dict[str, Any] = {
        "frames_published": sum(frame.clip == name for frame in published),
        "frames_answered": len(sound),
        "persons_total": sum(len(s.people) for s in sound),
        "latency_ms": _latencies([s.answer for s in sound]),
    }
    if sound and matches:
        frames = [matches[s.frame.stamp_ns] for s in sound]
        report["truth"] = summarise(frames) | {"id_switches": id_switches(frames, [s.track_ids for s in sound])}
    return report


def summarise(frames: list[FrameMatch]) -> dict[str, Any]:
    """The comparison over several frames, for everybody together and by name.

    recall: share of the well visible persons found, which is box and mask IoU at least 0.5.
    box_iou, mask_iou, oks: means over the persons found; None where nobody was.
    joint_error: median distance of a joint, as a share of the square root of the person's area.
    """
    persons = [person for frame in frames for person in frame.persons]

    def figures(name: str | None) -> dict[str, Any]:
        chosen = [p for p in persons if name is None or p.name == name]
        found = [p for p in chosen if p.found]
        return {
            "visible": len(chosen),
            "found": len(found),
            "recall": _rounded(len(found) / len(chosen)) if chosen else 1.0,
            "box_iou": _mean([p.box_iou for p in found]),
            "mask_iou": _mean([p.mask_iou for p in found]),
            "oks": _mean([p.oks for p in found if not np.isnan(p.oks)]),
            "joint_error": _median([error for p in found for error in p.joint_errors_ratio]),
        }

    false = sum(frame.false_persons for frame in frames)
    return {
        **figures(None),
        "false_persons": false,
        "false_persons_per_frame": _rounded(false / len(frames)) if frames else 0.0,
        "by_name": {name: figures(name) for name in dict.fromkeys(p.name for p in persons)},
    }


def id_switches(frames: list[FrameMatch], track_ids: list[np.ndarray]) -> int:
    """How often a person is found with another id than the last time, over the frames in turn."""
    last: dict[str, int] = {}
    count = 0
    for frame, ids in zip(frames, track_ids, strict=True):
        for person in frame.persons:
            if person.index is None or not person.found or ids[person.index] == 0:
                continue
            known = last.get(person.name, ids[person.index])
            count += int(known != ids[person.index])
            last[person.name] = ids[person.index]
    return count


def _latencies(answers: list[Answer]) -> dict[str, float | None]:
    """From a picture's stamp to the publishing of its poses, in milliseconds."""
    if not answers:
        return {"p50": None, "p95": None}
    p50, p95 = np.percentile([answer.latency_ms for answer in answers], [50, 95])
    return {"p50": round(float(p50), 1), "p95": round(float(p95), 1)}


def _mean(values: list[float]) -> float | None:
    return _rounded(float(np.mean(values))) if values else None


def _median(values: list[float]) -> float | None:
    return _rounded(float(np.median(values))) if values else None


def _rounded(value: float) -> float:
    return round(value, 3)


def _model(loaded: Loaded | None) -> dict[str, Any] | None:
    if loaded is None:
        return None
    model: dict[str, Any] = {"file": loaded.model.name, "input_wh": list(loaded.input_wh)}
    if loaded.model.is_file():
        model["sha256"] = hashlib.sha256(Path(loaded.model).read_bytes()).hexdigest()
    return model


def versions() -> dict[str, str]:
    """Of what took part."""
    found = {"kdc": kdc_core.__version__, "python": platform.python_version()}
    for package in _VERSIONS_OF:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # a distribution's own package may be registered under another name
    if distribution := os.environ.get("ROS_DISTRO"):
        found["ros"] = distribution
    return found
