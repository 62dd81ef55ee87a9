"""Made sequences with exact truth: scenes of walkers, and a detector that misses, jitters and sees ghosts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from kdc_core.skeleton import NUM_KEYPOINTS, OKS_SIGMAS, PERSON_AREA_SHARE
from kdc_core.types import People
from kdc_replay.scenes.walkers import IMAGE_HW, Seen, Walker, look

MIN_VISIBLE_SHARE = 0.2  # a body less in view than this is not detected


@dataclass(frozen=True)
class Detector:
    """What a bottom-up network does to the truth.

    missed:  share of the people it could see but overlooks. ghosts: false people for each frame, on average.
    jitter:  error of a joint, in units of its OKS constant (1 = as unsure as human annotators).
    swapped: chance that a hidden joint is taken from the person in front instead of being left out.
    doubled: chance that a person is found a second time.
    """

    missed: float = 0.0
    ghosts: float = 0.0
    jitter: float = 0.6
    swapped: float = 0.15
    doubled: float = 0.0


@dataclass(frozen=True)
class Frame:
    """stamp_s; people; sources (N,): the walker behind each of `people`, -1 = ghost, -2 = second sight;
    truth_ids (M,) and truth_boxes (M, 4) px: everybody with the body's centre in view, hidden or not."""

    stamp_s: float
    people: People
    sources: np.ndarray
    truth_ids: np.ndarray
    truth_boxes: np.ndarray


@dataclass(frozen=True)
class Scene:
    """name; walkers; stamps_s of the frames; what the detector does; pan_px (frames,) of the camera; pillars."""

    name: str
    walkers: Sequence[Walker]
    stamps_s: np.ndarray
    detector: Detector = field(default_factory=Detector)
    pan_px: np.ndarray | None = None
    pillars: Sequence[tuple[float, float, float]] = ()
    masks: bool = True

    def frames(self, seed: int = 0) -> Iterator[Frame]:
        rng = np.random.default_rng(seed)
        for i, stamp in enumerate(self.stamps_s):
            pan = 0.0 if self.pan_px is None else float(self.pan_px[i])
            seen = look(self.walkers, float(stamp), pan, self.pillars)
            people, sources = detect(seen, self.detector, rng, self.masks)
            centre = (seen.boxes[:, :2] + seen.boxes[:, 2:]) / 2
            inside = (centre >= 0).all(1) & (centre < IMAGE_HW[::-1]).all(1)
            yield Frame(float(stamp), people, sources, seen.walkers[inside], seen.boxes[inside])


def detect(
    seen: Seen, detector: Detector, rng: np.random.Generator, masks: bool
) -> tuple[People, np.ndarray]:
    """People as the made detector finds them, in random order, and their sources (N,)."""
    found, sources, parts = [], [], []
    front = np.argsort(-seen.boxes[:, 3])  # feet lower in the image = nearer
    for i in range(len(seen.walkers)):
        overlooked = rng.random() < detector.missed
        if overlooked or seen.visible_share[i] < MIN_VISIBLE_SHARE or seen.visible[i].sum() < 4:
            continue
        copies = 1 + (rng.random() < detector.doubled)
        for copy in range(copies):
            person = _pose(seen, i, front, detector, rng)
            sources.append(-2 if copy else seen.walkers[i])
            found.append((person[0], person[1], person[2] * (0.6 if copy else 1.0), _box(seen, i, person)))
            parts.append(0 if copy else i + 1)
    for _ in range(rng.poisson(detector.ghosts)):
        height = rng.uniform(40, 250)
        low = rng.uniform((0, 0), np.array(IMAGE_HW[::-1]) - (0.4 * height, 0.5 * height))
        xy = low + rng.random((NUM_KEYPOINTS, 2)) * (0.4 * height, height)
        scores = np.where(rng.random(NUM_KEYPOINTS) < 0.6, rng.uniform(0.05, 0.8, NUM_KEYPOINTS), 0.0)
        sources.append(-1)
        found.append((xy, scores, scores.mean(), np.array([*low, *(low + (0.4 * height, height))])))
        parts.append(0)
    order = rng.permutation(len(found))
    labels = None
    if masks:
        renumber = np.zeros(len(seen.walkers) + 1, np.uint16)
        for new, old in enumerate(order):
            if parts[old]:
                renumber[parts[old]] = new + 1
        labels = renumber[seen.labels]
    if len(found) == 0:
        return People.empty(IMAGE_HW if masks else None), np.zeros(0, int)
    joints, joint_scores, person_scores, boxes = (np.array(values, np.float32)[order] for values in zip(*found))
    return People(joints, joint_scores, person_scores, boxes, labels), np.array(sources)[order]


def _pose(
    seen: Seen, i: int, front: np.ndarray, detector: Detector, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float]:
    size = np.sqrt(PERSON_AREA_SHARE * np.prod(seen.boxes[i, 2:] - seen.boxes[i, :2]))
    noise = rng.normal(size=(NUM_KEYPOINTS, 2)) * (detector.jitter * 2 * OKS_SIGMAS * size)[:, None]
    xy = seen.xy[i] + noise
    scores = np.clip(rng.normal(0.85, 0.08, NUM_KEYPOINTS), 0.3, 1.0)
    hidden = ~seen.visible[i]
    scores[hidden] = np.where(rng.random(hidden.sum()) < 0.3, 0.15, 0.0)
    nearer = [j for j in front if seen.boxes[j, 3] > seen.boxes[i, 3]]
    for j in nearer[:1]:
        swapped = hidden & seen.visible[j] & (rng.random(NUM_KEYPOINTS) < detector.swapped)
        near = np.linalg.norm(seen.xy[j] - seen.xy[i], axis=1) < size
        swapped &= near
        xy[swapped] = seen.xy[j][swapped] + noise[swapped]
        scores[swapped] = 0.4
    return xy, scores, float(scores.mean())


def _box(seen: Seen, i: int, person: tuple[np.ndarray, np.ndarray, float]) -> np.ndarray:
    """The rectangle of the visible pixels and of the joints that are believed, within the image."""
    own = seen.labels == i + 1
    xs, ys = np.flatnonzero(own.any(0)), np.flatnonzero(own.any(1))
    low, high = np.array([xs[0], ys[0]]), np.array([xs[-1], ys[-1]])
    joints = person[0][person[1] > 0.3]
    if len(joints):
        low, high = np.minimum(low, joints.min(0)), np.maximum(high, joints.max(0))
    limit = np.array(IMAGE_HW[::-1]) - 1
    return np.concatenate([np.clip(low, 0, limit), np.clip(high, 0, limit)])


def stamps(seconds: float, rate_hz: float = 30.0, start_s: float = 0.0) -> np.ndarray:
    """Evenly spaced stamps."""
    return start_s + np.arange(round(seconds * rate_hz)) / rate_hz


def _straight(t0: float, t1: float, a: tuple[float, float], b: tuple[float, float], **kw: float) -> Walker:
    return Walker(((t0, *a), (t1, *b)), **kw)


def crossing_scenes(missed: float = 0.0, ghosts: float = 0.0) -> list[Scene]:
    """Scenes in which people pass in front of one another."""
    detector = Detector(missed=missed, ghosts=ghosts)
    pair = (
        _straight(0, 5, (-2.6, 4.0), (2.6, 4.0)),
        _straight(0, 5, (2.8, 4.7), (-2.8, 4.7), height_m=1.75, phase=1.0),
    )
    groups = tuple(
        _straight(0, 6, (-3.0 - 0.75 * i, 4.0 + 0.5 * i), (4.4 - 0.75 * i, 4.0 + 0.5 * i), phase=i) for i in range(3)
    ) + tuple(
        _straight(0, 6, (3.2 + 0.8 * i, 4.3 + 0.55 * i), (-4.6 + 0.8 * i, 4.3 + 0.55 * i), height_m=1.6, phase=2.0 + i)
        for i in range(3)
    )
    overtaking = (
        _straight(0, 6, (-2.2, 4.2), (2.0, 4.2)),
        _straight(0, 6, (-3.4, 5.0), (3.8, 5.0), height_m=1.75, phase=0.5),
    )
    diagonal = (
        _straight(0, 5, (-2.2, 6.0), (1.6, 3.2)),
        _straight(0, 5, (2.2, 6.2), (-1.8, 3.4), phase=1.5),
        _straight(0, 5, (0.2, 3.2), (-0.2, 6.5), height_m=1.6, phase=0.7),
    )
    halt_behind = (
        Walker(((0, -2.6, 4.0), (2.5, 0.0, 4.0), (3.7, 0.15, 4.0), (6, 2.6, 4.0))),
        Walker(((0, 2.8, 4.8), (2.5, 0.1, 4.8), (3.7, -0.1, 4.8), (6, -2.8, 4.8)), phase=1.0),
    )
    turn_back = (
        _straight(0, 5, (-2.6, 4.0), (2.6, 4.0)),
        Walker(((0, 2.6, 4.8), (2.6, 0.0, 4.8), (5, 2.6, 4.8)), phase=1.0),
    )
    shadowing = (
        _straight(0, 6, (-2.4, 4.0), (2.4, 4.0)),
        _straight(0, 6, (-3.2, 4.7), (3.2, 4.7), phase=0.4),
        _straight(0, 6, (3.2, 5.4), (-3.2, 5.4), phase=2.0),
    )
    return [
        Scene("crossing pair", pair, stamps(5), detector),
        Scene("crossing pair, 7.5 Hz", pair, stamps(5, 7.5), detector),
        Scene("crossing groups, 3 against 3", groups, stamps(6), detector),
        Scene("overtaking", overtaking, stamps(6), detector),
        Scene("crossing diagonals", diagonal, stamps(5), detector),
        Scene("halting behind another", halt_behind, stamps(6), detector),
        Scene("turning back behind another", turn_back, stamps(5), detector),
        Scene("two cross a third", shadowing, stamps(6), detector),
    ]


def other_scenes(missed: float = 0.1, ghosts: float = 0.2) -> list[Scene]:
    """Occlusion, leaving and coming back, crowds, changing rates, jumps of time, a turning camera."""
    detector = Detector(missed=missed, ghosts=ghosts)
    pillar_pair = (
        _straight(0, 6, (-2.8, 5.0), (2.8, 5.0)),
        _straight(0, 6, (2.4, 4.4), (-2.4, 4.4), phase=1.0),
    )
    exits = (
        Walker(((0, 0.0, 4.0), (2.4, 3.4, 4.0), (4.0, 3.4, 4.0), (7, -1.0, 4.0))),
        Walker(((0, -1.0, 5.0), (7, 0.5, 5.0)), phase=1.0),
    )
    crowd = crowd_walkers(8, 8.0, seed=7)
    mixed_rates = np.concatenate([stamps(2, 30), stamps(2, 10, 2.0), stamps(2, 15, 4.0), stamps(2, 30, 6.0)])
    rng = np.random.default_rng(3)
    dropped = stamps(8)[rng.random(240) > 0.4]
    pan = 120 * np.sin(2 * np.pi * stamps(8) / 4.0)
    return [
        Scene("behind a pillar", pillar_pair, stamps(6), detector, pillars=((-0.35, 0.35, 3.0),)),
        Scene("leaving and coming back", exits, stamps(7), detector),
        Scene("crowd of 8", crowd, stamps(8), detector),
        Scene("crowd of 8, boxes and joints only", crowd, stamps(8), detector, masks=False),
        Scene("crowd of 8, rate 30-10-15-30 Hz", crowd, mixed_rates, detector),
        Scene("crowd of 8, 40 % of frames dropped", crowd, dropped, detector),
        Scene("crowd of 8, camera turns to and fro", crowd, stamps(8), detector, pan_px=pan),
    ]


def crowd_walkers(count: int, seconds: float, seed: int) -> tuple[Walker, ...]:
    """People who wander between random places in view."""
    rng = np.random.default_rng(seed)
    walkers = []
    for i in range(count):
        t = 0.0
        knots: list[tuple[float, float, float]] = []
        z = 3.5 + 3.5 * (i + rng.random()) / count
        x = rng.uniform(-0.55, 0.55) * z
        while t < seconds + 1 or len(knots) < 2:
            knots.append((t, x, z))
            new_x = rng.uniform(-0.6, 0.6) * z
            t += max(abs(new_x - x), 0.3) / rng.uniform(0.7, 1.4)
            x = new_x
        walkers.append(Walker(tuple(knots), height_m=rng.uniform(1.55, 1.85), phase=rng.uniform(0, 6)))
    return tuple(walkers)
