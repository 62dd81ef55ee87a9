"""A frame's people as the messages that the live node publishes (a test holds the two together, byte by byte)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kdc_core.camera import CameraModel
from kdc_core.draw import colour_of
from kdc_core.rle import encode_counts
from kdc_core.skeleton import LIMBS
from kdc_core.tracking import FrameTracks, Track
from kdc_core.types import People
from kdc_replay.interfaces import Messages

POSES, MASKS, MARKERS = "kdc/msg/PoseArray", "kdc/msg/InstanceMaskArray", "visualization_msgs/msg/MarkerArray"
_MARKER = "visualization_msgs/msg/Marker"
KEYPOINT_THRESHOLD = 0.2
# As the node draws whoever's place in space is not known: on a plane one metre before the camera.
_PLANE_DEPTH_M = 1.0
_JOINT_SIZE_M, _BONE_WIDTH_M, _LABEL_HEIGHT_M = 0.012, 0.006, 0.03
_LIFETIME_S = 2
_SPHERE_LIST, _LINE_LIST, _TEXT = 7, 5, 9  # Marker.type
_ADD, _DELETE = 0, 2  # Marker.action
_NAMESPACES = ("joints", "bones", "labels")


def header(messages: Messages, stamp_ns: int, frame_id: str) -> Any:
    """A std_msgs/Header."""
    stamp = messages.make("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return messages.make("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)


def pose_array(
    messages: Messages, people: People, tracks: FrameTracks, header: Any, image_hw: tuple[int, int]
) -> Any:
    """A kdc/PoseArray: everybody found, and the tracks of whom nobody was found."""
    persons = [
        _person(
            messages,
            track_id=int(tracks.ids[i]),
            state=int(tracks.states[i]),
            age_s=float(tracks.ages_s[i]),
            velocity_xy=tracks.velocities_xy[i],
            score=float(people.scores[i]),
            box=people.boxes_xyxy[i],
            keypoints_xy=people.keypoints_xy[i],
            keypoint_scores=people.keypoint_scores[i],
        )
        for i in range(len(people))
    ]
    unseen = [_unseen(messages, track) for track in tracks.unseen]
    height, width = image_hw
    return messages.make(
        POSES, header=header, image_height=height, image_width=width, people=persons, unseen=unseen
    )


def _unseen(messages: Messages, track: Track) -> Any:
    return _person(
        messages,
        track_id=track.id,
        state=int(track.state),
        age_s=track.age_s,
        velocity_xy=track.velocity_xy,
        score=track.score,
        box=track.box_xyxy,
        keypoints_xy=track.keypoints_xy,
        keypoint_scores=track.keypoint_scores,
    )


def _person(
    messages: Messages,
    track_id: int,
    state: int,
    age_s: float,
    velocity_xy: np.ndarray,
    score: float,
    box: np.ndarray,
    keypoints_xy: np.ndarray,
    keypoint_scores: np.ndarray,
) -> Any:
    places = np.where((keypoint_scores > 0)[:, None], keypoints_xy, np.float32(np.nan)).tolist()
    keypoints = [
        messages.make("kdc/msg/Keypoint", x=x, y=y, score=s) for (x, y), s in zip(places, keypoint_scores.tolist())
    ]
    x_min, y_min, x_max, y_max = box.tolist()
    velocity_x, velocity_y = velocity_xy.tolist()
    return messages.make(
        "kdc/msg/PersonPose",
        track_id=track_id,
        state=state,
        age_s=age_s,
        velocity_x=velocity_x,
        velocity_y=velocity_y,
        score=score,
        x_min=x_min,
        y_min=y_min,
        x_max=x_max,
        y_max=y_max,
        keypoints=keypoints,
    )


def mask_array(messages: Messages, people: People, tracks: FrameTracks, header: Any) -> Any:
    """A kdc/InstanceMaskArray. Raises ValueError without masks."""
    if people.mask_labels is None:
        raise ValueError("these people carry no masks")
    masks = []
    for i, (x, y, w, h) in enumerate(people.mask_rois().tolist()):
        fields: dict[str, Any] = {
            "track_id": int(tracks.ids[i]),
            "score": float(people.scores[i]),
            "mask_score": math.nan if people.mask_scores is None else float(people.mask_scores[i]),
        }
        if w and h:
            fields["roi"] = messages.make(
                "sensor_msgs/msg/RegionOfInterest", x_offset=x, y_offset=y, height=h, width=w
            )
            fields["counts"] = encode_counts(people.mask_labels[y : y + h, x : x + w] == i + 1).astype(np.uint32)
        masks.append(messages.make("kdc/msg/InstanceMask", **fields))
    height, width = people.mask_labels.shape
    return messages.make(MASKS, header=header, image_height=height, image_width=width, masks=masks)


class MarkerArrays:
    """MarkerArrays frame by frame; remembers which persons RViz shows, to delete those who left."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._shown: set[int] = set()

    def make(self, people: People, track_ids: np.ndarray, header: Any, image_hw: tuple[int, int]) -> Any:
        """Joints, bones and a label for each person; the camera's calibration is guessed from the picture's size."""
        camera = CameraModel.guess(image_hw)
        markers: list[Any] = []
        shown: set[int] = set()
        for i, track_id in enumerate(track_ids.tolist()):
            marker_id = track_id if track_id > 0 else -1 - i
            shown.add(marker_id)
            markers += self._figure(people, i, track_id, marker_id, header, camera)
        for marker_id in sorted(self._shown - shown):
            markers += [
                self._messages.make(_MARKER, header=header, ns=name, id=marker_id, action=_DELETE, pose=self._upright())
                for name in _NAMESPACES
            ]
        self._shown = shown
        return self._messages.make(MARKERS, markers=markers)

    def _upright(self, **fields: Any) -> Any:
        orientation = self._messages.make("geometry_msgs/msg/Quaternion", w=1.0)
        return self._messages.make("geometry_msgs/msg/Pose", orientation=orientation, **fields)

    def _figure(
        self, people: People, i: int, track_id: int, marker_id: int, header: Any, camera: CameraModel
    ) -> list[Any]:
        make = self._messages.make
        places = camera.to_plane(people.keypoints_xy[i], _PLANE_DEPTH_M)
        visible = people.keypoint_scores[i] >= KEYPOINT_THRESHOLD
        corners = [make("geometry_msgs/msg/Point", x=x, y=y, z=z) for x, y, z in places.tolist()]
        joints = [corners[k] for k in np.flatnonzero(visible)]
        bones = [corners[end] for a, b in LIMBS if visible[a] and visible[b] for end in (a, b)]
        x, y, z = camera.to_plane(people.boxes_xyxy[i, :2], _PLANE_DEPTH_M).tolist()
        text = f"{track_id}: {people.scores[i]:.2f}" if track_id > 0 else f"{people.scores[i]:.2f}"
        red, green, blue = (channel / 255.0 for channel in colour_of(track_id if track_id > 0 else i + 1))
        colour = make("std_msgs/msg/ColorRGBA", r=red, g=green, b=blue, a=1.0)

        def marker(name: str, kind: int, size_xyz: tuple[float, float, float], at: Any = None, **fields: Any) -> Any:
            pose = self._upright() if at is None else self._upright(position=at)
            size = make("geometry_msgs/msg/Vector3", **dict(zip("xyz", size_xyz)))
            lifetime = make("builtin_interfaces/msg/Duration", sec=_LIFETIME_S)
            return make(
                _MARKER,
                header=header, ns=name, id=marker_id, type=kind, pose=pose, scale=size, color=colour,
                lifetime=lifetime, **fields,
            )  # fmt: skip

        above = make("geometry_msgs/msg/Point", x=x, y=y - _LABEL_HEIGHT_M / 2, z=z)
        # An empty list marker makes RViz complain.
        return [
            marker("joints", _SPHERE_LIST, (_JOINT_SIZE_M,) * 3, points=joints, action=_ADD if joints else _DELETE),
            marker("bones", _LINE_LIST, (_BONE_WIDTH_M, 0.0, 0.0), points=bones, action=_ADD if bones else _DELETE),
            marker("labels", _TEXT, (0.0, 0.0, _LABEL_HEIGHT_M), above, text=text, action=_ADD),
        ]
