"""People to messages and back: the only place that knows how `People` look on the wire.

Both directions are lossless for everything that has a meaning: coordinates and scores are float32 on both
sides, masks are run lengths. A keypoint that was not found has no place; it travels as NaN and comes back as
(0, 0), score 0.
"""

from __future__ import annotations

import math
import sys
from array import array

import numpy as np
from kdc.msg import (
    InstanceMask,
    InstanceMaskArray,
    InstancePolygons,
    InstancePolygonsArray,
    PersonPose,
    PolygonRing,
    PoseArray,
)
from sensor_msgs.msg import Image, RegionOfInterest
from std_msgs.msg import Header

from kdc_core.polygons import Ring, mask_to_rings
from kdc_core.positions import Positions
from kdc_core.rle import decode_counts, encode_labels
from kdc_core.skeleton import NUM_KEYPOINTS
from kdc_core.tracking import FrameTracks, Track, TrackState
from kdc_core.types import People


class PersonPool:
    """Person messages that are filled anew for each frame: filling one takes a tenth of the time of making one.

    What was made with a pool is overwritten by the next message made with it: publish, or copy, before that.
    """

    def __init__(self) -> None:
        self._persons: list[PersonPose] = []

    def take(self, count: int) -> list[PersonPose]:
        """So many messages, whatever is in them."""
        self._persons += [PersonPose() for _ in range(count - len(self._persons))]
        return self._persons[:count]


def poses_to_message(
    people: People,
    tracks: FrameTracks,
    header: Header,
    image_hw: tuple[int, int],
    positions: Positions | None = None,
    pool: PersonPool | None = None,
) -> PoseArray:
    """The people's boxes and keypoints as a message.

    tracks:    identities of the N people; the tracks that are not seen go into `unseen`.
    header:    the input image's; it is not copied.
    image_hw:  (height, width) of the input image in pixels.
    positions: where the N people are in space; None = all unknown.
    pool:      where the parts are taken from; None = they are made.
    """
    if len(tracks) != len(people):
        raise ValueError(f"{len(people)} people, but {len(tracks)} track ids")
    message = PoseArray(header=header, image_height=image_hw[0], image_width=image_hw[1])
    persons = (pool or PersonPool()).take(len(people) + len(tracks.unseen))
    seen, unseen = persons[: len(people)], persons[len(people) :]
    shapes = (people.boxes_xyxy, people.keypoints_xy, people.keypoint_scores)
    _fill(seen, shapes, positions or Positions.unknown(len(people)))
    scores, ids, states = people.scores.tolist(), tracks.ids.tolist(), tracks.states.tolist()
    ages_s, velocities_xy = tracks.ages_s.tolist(), tracks.velocities_xy.tolist()
    for i, person in enumerate(seen):
        person.track_id, person.state, person.age_s, person.score = ids[i], states[i], ages_s[i], scores[i]
        person.velocity_x, person.velocity_y = velocities_xy[i]
    for person, track in zip(unseen, tracks.unseen):
        _fill_unseen(person, track)
    message.people, message.unseen = seen, unseen
    return message


def _fill_unseen(person: PersonPose, track: Track) -> None:
    shapes = (track.box_xyxy[None], track.keypoints_xy[None], track.keypoint_scores[None])
    _fill([person], shapes, Positions.unknown(1))
    person.track_id, person.state, person.age_s, person.score = track.id, int(track.state), track.age_s, track.score
    person.velocity_x, person.velocity_y = track.velocity_xy.tolist()


def _fill(
    persons: list[PersonPose], shapes: tuple[np.ndarray, np.ndarray, np.ndarray], positions: Positions
) -> None:
    """Put boxes (N, 4), keypoints (N, K, 2), their scores (N, K) and places in space into N messages."""
    boxes, keypoints_xy, keypoint_scores = shapes
    places = np.where((keypoint_scores <= 0)[..., None], np.float32(np.nan), keypoints_xy)
    # .tolist() once: plain Python floats are what the messages take, and indexing numpy one by one is slow.
    rows = np.concatenate([places, keypoint_scores[..., None]], axis=2).tolist()
    points, roots = positions.keypoints_m.tolist(), positions.roots_m.tolist()
    stds_m, sources = positions.stds_m.tolist(), positions.sources.tolist()
    for i, (person, box) in enumerate(zip(persons, boxes.tolist())):
        person.x_min, person.y_min, person.x_max, person.y_max = box
        person.distance_std_m, person.position_source = stds_m[i], sources[i]
        root = person.root
        root.x, root.y, root.z = roots[i]
        for keypoint, row, xyz in zip(person.keypoints, rows[i], points[i]):
            keypoint.x, keypoint.y, keypoint.score = row
            position = keypoint.position
            position.x, position.y, position.z = xyz


def masks_to_message(people: People, track_ids: np.ndarray, header: Header) -> InstanceMaskArray:
    """The people's masks as a message, one entry for each person. Raises ValueError without masks."""
    if people.mask_labels is None:
        raise ValueError("these people carry no masks")
    if len(track_ids) != len(people):
        raise ValueError(f"{len(people)} people, but {len(track_ids)} track ids")
    height, width = people.mask_labels.shape
    message = InstanceMaskArray(header=header, image_height=height, image_width=width)
    scores, mask_scores = people.scores.tolist(), _mask_scores(people)
    rois, counts = encode_labels(people.mask_labels, len(people))
    for i, roi in enumerate(rois.tolist()):
        message.masks.append(_mask_message(roi, counts[i], int(track_ids[i]), scores[i], mask_scores[i]))
    return message


def _mask_scores(people: People) -> list[float]:
    """One for each person, NaN where unknown."""
    return [math.nan] * len(people) if people.mask_scores is None else people.mask_scores.tolist()


def mask_to_message(
    mask: np.ndarray, track_id: int = 0, score: float = 0.0, mask_score: float = math.nan
) -> InstanceMask:
    """One instance mask, bool (H, W), as a message whose ROI is the mask's tight rectangle."""
    rois, counts = encode_labels(np.asarray(mask, bool).astype(np.uint16), 1)
    return _mask_message(rois[0].tolist(), counts[0], track_id, score, mask_score)


def _mask_message(roi: list[int], runs: np.ndarray, track_id: int, score: float, mask_score: float) -> InstanceMask:
    """A message from a mask's ROI (x, y, width, height) and the run lengths inside it, uint32 (R,)."""
    message = InstanceMask(track_id=track_id, score=score, mask_score=mask_score)
    x, y, width, height = roi
    message.roi = RegionOfInterest(x_offset=x, y_offset=y, height=height, width=width)
    counts = array("I")
    counts.frombytes(runs.tobytes())
    message.counts = counts
    return message


def label_image_to_message(people: People, header: Header, wide: bool = False) -> Image:
    """The people's masks as one image: 0 = background, i + 1 = people[i] of the PoseArray with the same stamp.

    mono8, which holds 255 people (anybody beyond is background), or with `wide` 16UC1. Raises ValueError without masks.
    """
    if people.mask_labels is None:
        raise ValueError("these people carry no masks")
    labels = people.mask_labels
    if not wide:
        labels = np.where(labels > 255, 0, labels).astype(np.uint8) if len(people) > 255 else labels.astype(np.uint8)
    height, width = labels.shape
    encoding = "16UC1" if wide else "mono8"
    message = Image(header=header, height=height, width=width, encoding=encoding, step=width * labels.itemsize)
    message.is_bigendian = int(wide and sys.byteorder == "big")
    data = array("B")
    data.frombytes(np.ascontiguousarray(labels).tobytes())
    message.data = data
    return message


def polygons_to_message(
    people: People, track_ids: np.ndarray, header: Header, tolerance_px: float
) -> InstancePolygonsArray:
    """The people's masks as outlines, not farther than `tolerance_px` from them. Raises ValueError without masks."""
    if people.mask_labels is None:
        raise ValueError("these people carry no masks")
    height, width = people.mask_labels.shape
    message = InstancePolygonsArray(header=header, image_height=height, image_width=width)
    scores, mask_scores = people.scores.tolist(), _mask_scores(people)
    for i, (x, y, w, h) in enumerate(people.mask_rois().tolist()):
        inside = people.mask_labels[y : y + h, x : x + w] == i + 1
        rings = [_ring_message(ring) for ring in mask_to_rings(inside, (x, y), tolerance_px)]
        message.instances.append(
            InstancePolygons(track_id=int(track_ids[i]), score=scores[i], mask_score=mask_scores[i], rings=rings)
        )
    return message


def _ring_message(ring: Ring) -> PolygonRing:
    message = PolygonRing(hole=ring.hole)
    message.x, message.y = (array("i", ring.vertices_xy[:, axis].tolist()) for axis in (0, 1))
    return message


def rings_from_message(message: InstancePolygons) -> list[Ring]:
    """The outlines of one person's mask; `kdc_core.polygons.rings_to_mask` fills them. Raises ValueError."""
    rings = []
    for ring in message.rings:
        if len(ring.x) != len(ring.y) or len(ring.x) == 0:
            raise ValueError(f"a ring has {len(ring.x)} x and {len(ring.y)} y")
        rings.append(Ring(np.stack([np.asarray(ring.x, np.int32), np.asarray(ring.y, np.int32)], axis=1), ring.hole))
    return rings


def positions_from_message(poses: PoseArray) -> Positions:
    """Where the people of a message are in space."""
    positions = Positions.unknown(len(poses.people))
    for i, person in enumerate(poses.people):
        positions.keypoints_m[i] = [(k.position.x, k.position.y, k.position.z) for k in person.keypoints]
        positions.roots_m[i] = (person.root.x, person.root.y, person.root.z)
        positions.stds_m[i] = person.distance_std_m
        positions.sources[i] = person.position_source
    return positions


def mask_from_message(message: InstanceMask, image_hw: tuple[int, int]) -> np.ndarray:
    """One instance mask, bool (H, W), on a canvas of the input image's size.

    Raises ValueError when the ROI leaves the image or the run lengths do not fill the ROI.
    """
    mask = np.zeros(image_hw, bool)
    roi = message.roi
    if roi.height == 0 or roi.width == 0:
        return mask
    bottom, right = roi.y_offset + roi.height, roi.x_offset + roi.width
    if bottom > image_hw[0] or right > image_hw[1]:
        size = f"{image_hw[1]} x {image_hw[0]}"
        raise ValueError(f"the mask's ROI ends at ({right}, {bottom}), beyond an image of {size}")
    counts = np.asarray(message.counts, np.uint32)
    mask[roi.y_offset : bottom, roi.x_offset : right] = decode_counts(counts, roi.height, roi.width)
    return mask


def people_from_messages(
    poses: PoseArray, masks: InstanceMaskArray | None = None
) -> tuple[People, np.ndarray]:
    """The people and their track ids (int32 (N,)) from a message, with masks where these are given too.

    Where two masks of a foreign sender overlap, the earlier person keeps the pixel: a label map holds one
    person for each pixel. Raises ValueError when the two messages do not belong together.
    """
    count = len(poses.people)
    numbers = np.array(
        [[(k.x, k.y, k.score) for k in person.keypoints] for person in poses.people], np.float32
    ).reshape(count, NUM_KEYPOINTS, 3)
    scores = np.ascontiguousarray(numbers[..., 2])
    labels = mask_scores = None
    if masks is not None:
        if masks.header != poses.header or len(masks.masks) != count:
            raise ValueError("poses and masks are not of the same image")
        image_hw = (masks.image_height, masks.image_width)
        labels = np.zeros(image_hw, np.uint16)
        for i, mask in reversed(list(enumerate(masks.masks))):
            labels[mask_from_message(mask, image_hw)] = i + 1
        mask_scores = np.array([mask.mask_score for mask in masks.masks], np.float32)
        if np.isnan(mask_scores).any():
            mask_scores = None
    people = People(
        keypoints_xy=np.where(scores[..., None] > 0, numbers[..., :2], np.float32(0)),
        keypoint_scores=scores,
        scores=np.array([p.score for p in poses.people], np.float32),
        boxes_xyxy=np.array([(p.x_min, p.y_min, p.x_max, p.y_max) for p in poses.people], np.float32).reshape(
            count, 4
        ),
        mask_labels=labels,
        mask_scores=mask_scores,
    )
    return people, np.array([p.track_id for p in poses.people], np.int32)


def tracks_from_message(poses: PoseArray) -> FrameTracks:
    """The identities of a message's people, and its tracks of people who are not seen.

    `unseen_s` of those does not travel: it comes back as NaN.
    """
    people = poses.people
    return FrameTracks(
        ids=np.array([p.track_id for p in people], np.int32),
        states=np.array([p.state for p in people], np.uint8),
        ages_s=np.array([p.age_s for p in people], np.float32),
        velocities_xy=np.array([(p.velocity_x, p.velocity_y) for p in people], np.float32).reshape(-1, 2),
        unseen=tuple(_unseen_track(person) for person in poses.unseen),
    )


def _unseen_track(person: PersonPose) -> Track:
    rows = np.array([(k.x, k.y, k.score) for k in person.keypoints], np.float32)
    found = rows[:, 2] > 0
    return Track(
        id=person.track_id,
        state=TrackState(person.state),
        age_s=person.age_s,
        unseen_s=math.nan,
        score=person.score,
        box_xyxy=np.array([person.x_min, person.y_min, person.x_max, person.y_max], np.float32),
        keypoints_xy=np.where(found[:, None], rows[:, :2], np.float32(0)),
        keypoint_scores=rows[:, 2],
        velocity_xy=np.array([person.velocity_x, person.velocity_y], np.float32),
    )
