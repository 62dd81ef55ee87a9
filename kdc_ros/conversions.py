"""People to messages and back: the only place that knows how `People` look on the wire.

Both directions are lossless for everything that has a meaning: coordinates and scores are float32 on both
sides, masks are run lengths. A keypoint that was not found has no place; it travels as NaN and comes back as
(0, 0), score 0.
"""

from __future__ import annotations

import math
from array import array

import numpy as np
from geometry_msgs.msg import Point
from kdc.msg import InstanceMask, InstanceMaskArray, Keypoint, PersonPose, PoseArray
from sensor_msgs.msg import RegionOfInterest
from std_msgs.msg import Header

from kdc_core.rle import decode_counts, encode_counts
from kdc_core.skeleton import NUM_KEYPOINTS
from kdc_core.tracking import FrameTracks, Track, TrackState
from kdc_core.types import People


def poses_to_message(
    people: People,
    tracks: FrameTracks,
    header: Header,
    image_hw: tuple[int, int],
    positions_m: np.ndarray | None = None,
) -> PoseArray:
    """The people's boxes and keypoints as a message.

    tracks:      identities of the N people; the tracks that are not seen go into `unseen`.
    header:      the input image's; it is not copied.
    image_hw:    (height, width) of the input image in pixels.
    positions_m: float (N, K, 3) in the camera's optical frame, NaN where unknown; None = all unknown.
    """
    if len(tracks) != len(people):
        raise ValueError(f"{len(people)} people, but {len(tracks)} track ids")
    message = PoseArray(header=header, image_height=image_hw[0], image_width=image_hw[1])
    keypoints = _keypoint_rows(people.keypoints_xy, people.keypoint_scores)
    positions = None if positions_m is None else np.asarray(positions_m, np.float64).tolist()
    boxes, scores = people.boxes_xyxy.tolist(), people.scores.tolist()
    ids, states, ages_s = tracks.ids.tolist(), tracks.states.tolist(), tracks.ages_s.tolist()
    velocities_xy = tracks.velocities_xy.tolist()
    for i in range(len(people)):
        person = PersonPose(track_id=ids[i], state=states[i], age_s=ages_s[i], score=scores[i])
        person.velocity_x, person.velocity_y = velocities_xy[i]
        person.x_min, person.y_min, person.x_max, person.y_max = boxes[i]
        person.keypoints = _keypoints(keypoints[i], None if positions is None else positions[i])
        message.people.append(person)
    message.unseen = [_unseen_person(track) for track in tracks.unseen]
    return message


def _unseen_person(track: Track) -> PersonPose:
    person = PersonPose(track_id=track.id, state=int(track.state), age_s=track.age_s, score=track.score)
    person.velocity_x, person.velocity_y = track.velocity_xy.tolist()
    person.x_min, person.y_min, person.x_max, person.y_max = track.box_xyxy.tolist()
    person.keypoints = _keypoints(_keypoint_rows(track.keypoints_xy, track.keypoint_scores), None)
    return person


def _keypoint_rows(xy: np.ndarray, scores: np.ndarray) -> list:
    """x, y, score of keypoints (..., K, 2), (..., K); NaN for the place of a missing one.

    Lists at once: plain Python floats are what the messages take, and indexing numpy one by one is slow.
    """
    places = np.where((scores <= 0)[..., None], np.float32(np.nan), xy)
    return np.concatenate([places, scores[..., None]], axis=-1).tolist()


def _keypoints(rows: list[list[float]], positions_m: list[list[float]] | None) -> list[Keypoint]:
    places: list = [None] * len(rows) if positions_m is None else positions_m
    return [Keypoint(x=x, y=y, score=s, position=_point(place)) for (x, y, s), place in zip(rows, places)]


def _point(xyz: list[float] | None) -> Point:
    x, y, z = (math.nan, math.nan, math.nan) if xyz is None else xyz
    return Point(x=x, y=y, z=z)


def masks_to_message(people: People, track_ids: np.ndarray, header: Header) -> InstanceMaskArray:
    """The people's masks as a message, one entry for each person. Raises ValueError without masks."""
    if people.mask_labels is None:
        raise ValueError("these people carry no masks")
    if len(track_ids) != len(people):
        raise ValueError(f"{len(people)} people, but {len(track_ids)} track ids")
    height, width = people.mask_labels.shape
    message = InstanceMaskArray(header=header, image_height=height, image_width=width)
    scores = people.scores.tolist()
    for i, roi in enumerate(people.mask_rois().tolist()):
        x, y, w, h = roi
        inside = people.mask_labels[y : y + h, x : x + w] == i + 1
        message.masks.append(_mask_message(inside, x, y, int(track_ids[i]), scores[i]))
    return message


def mask_to_message(mask: np.ndarray, track_id: int = 0, score: float = 0.0) -> InstanceMask:
    """One instance mask, bool (H, W), as a message whose ROI is the mask's tight rectangle."""
    mask = np.asarray(mask, bool)
    columns = np.flatnonzero(mask.any(axis=0))
    rows = np.flatnonzero(mask.any(axis=1))
    if len(columns) == 0:
        return _mask_message(mask[:0, :0], 0, 0, track_id, score)
    x, y = int(columns[0]), int(rows[0])
    inside = mask[y : int(rows[-1]) + 1, x : int(columns[-1]) + 1]
    return _mask_message(inside, x, y, track_id, score)


def _mask_message(inside: np.ndarray, x: int, y: int, track_id: int, score: float) -> InstanceMask:
    """A message from the mask inside its ROI, bool (h, w), whose top-left pixel is (x, y)."""
    message = InstanceMask(track_id=track_id, score=score)
    if inside.size == 0:
        return message
    height, width = inside.shape
    message.roi = RegionOfInterest(x_offset=x, y_offset=y, height=height, width=width)
    counts = array("I")
    counts.frombytes(np.ascontiguousarray(encode_counts(inside), np.uint32).tobytes())
    message.counts = counts
    return message


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
    labels = None
    if masks is not None:
        if masks.header != poses.header or len(masks.masks) != count:
            raise ValueError("poses and masks are not of the same image")
        image_hw = (masks.image_height, masks.image_width)
        labels = np.zeros(image_hw, np.uint16)
        for i, mask in reversed(list(enumerate(masks.masks))):
            labels[mask_from_message(mask, image_hw)] = i + 1
    people = People(
        keypoints_xy=np.where(scores[..., None] > 0, numbers[..., :2], np.float32(0)),
        keypoint_scores=scores,
        scores=np.array([p.score for p in poses.people], np.float32),
        boxes_xyxy=np.array([(p.x_min, p.y_min, p.x_max, p.y_max) for p in poses.people], np.float32).reshape(
            count, 4
        ),
        mask_labels=labels,
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
