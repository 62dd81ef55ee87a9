"""People as RViz markers: joints, bones and a label for each.

Who is measured by depth stands where the body is, joint by joint; whose distance is estimated, as a flat figure at that
distance; whose place is unknown, on the image plane one metre before the camera, where RViz's Camera display lays the
figure over the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from kdc_core.camera import CameraModel
from kdc_core.draw import colour_of
from kdc_core.positions import Positions, PositionSource
from kdc_core.skeleton import LIMBS
from kdc_core.types import People

NAMESPACES = ("joints", "bones", "labels")
PLANE_DEPTH_M = 1.0
# Sizes at one metre; on the plane and on flat figures they grow with the distance, so that they look alike in the
# picture. A measured body has the sizes of a body.
JOINT_SIZE_M = 0.012
BONE_WIDTH_M = 0.006
LABEL_HEIGHT_M = 0.03
BODY_JOINT_SIZE_M = 0.05
BODY_BONE_WIDTH_M = 0.03
BODY_LABEL_HEIGHT_M = 0.12
# Should the node die, its markers go away by themselves.
LIFETIME_S = 2


@dataclass(frozen=True, eq=False)
class _Figure:
    """A person to draw: joints float64 (K, 3), which are shown, bool (K,), the label's place, and sizes in metres."""

    joints_m: np.ndarray
    shown: np.ndarray
    label_m: np.ndarray
    joint_size_m: float
    bone_width_m: float
    label_height_m: float


class MarkerBuilder:
    """Makes one MarkerArray for each frame, and remembers which persons RViz shows to delete those who left.

    A tracked person's marker id is the track id; an untracked one's is -1 - its place in the list.
    """

    def __init__(self, keypoint_threshold: float = 0.2) -> None:
        self.keypoint_threshold = keypoint_threshold
        self._shown: set[int] = set()

    def reset(self) -> None:
        """Forget who is shown: nobody is looking any more."""
        self._shown = set()

    def build(
        self,
        people: People,
        track_ids: np.ndarray,
        header: Header,
        camera: CameraModel,
        positions: Positions | None = None,
    ) -> MarkerArray:
        """Markers of the people of one image; keypoints under the threshold are left out.

        track_ids: int (N,), 0 = not tracked. header: the input image's. camera: its projection. positions: where the
        people are; None = unknown.
        """
        positions = positions or Positions.unknown(len(people))
        message = MarkerArray()
        shown: set[int] = set()
        for i, track_id in enumerate(track_ids.tolist()):
            marker_id = track_id if track_id > 0 else -1 - i
            shown.add(marker_id)
            colour = _colour(track_id if track_id > 0 else i + 1)
            figure = self._figure(people, i, camera, positions)
            corners = [Point(x=x, y=y, z=z) for x, y, z in figure.joints_m.tolist()]
            joints = _marker("joints", marker_id, Marker.SPHERE_LIST, header, colour)
            joints.scale.x = joints.scale.y = joints.scale.z = figure.joint_size_m
            joints.points = [corners[k] for k in np.flatnonzero(figure.shown)]
            bones = _marker("bones", marker_id, Marker.LINE_LIST, header, colour)
            bones.scale.x = figure.bone_width_m
            bones.points = [corners[end] for a, b in LIMBS if figure.shown[a] and figure.shown[b] for end in (a, b)]
            label = _marker("labels", marker_id, Marker.TEXT_VIEW_FACING, header, colour)
            label.scale.z = figure.label_height_m
            label.text = _text(track_id, people.scores[i], positions, i)
            label.pose.position = Point(**dict(zip("xyz", np.nan_to_num(figure.label_m).tolist())))
            # An empty list marker makes RViz complain; without joints there is none to show, nor a label nowhere.
            for marker, empty in (
                (joints, not joints.points),
                (bones, not bones.points),
                (label, not np.isfinite(figure.label_m).all()),
            ):
                if empty:
                    marker.action = Marker.DELETE
            message.markers += [joints, bones, label]
        for marker_id in sorted(self._shown - shown):
            message.markers += [_deletion(namespace, marker_id, header) for namespace in NAMESPACES]
        self._shown = shown
        return message

    def _figure(self, people: People, i: int, camera: CameraModel, positions: Positions) -> _Figure:
        visible = people.keypoint_scores[i] >= max(self.keypoint_threshold, np.finfo(np.float32).tiny)
        if positions.sources[i] == PositionSource.DEPTH:
            joints = positions.keypoints_m[i]
            measured = visible & np.isfinite(joints).all(axis=1)
            head = joints[measured] if measured.any() else positions.roots_m[i][None]
            highest = head[head[:, 1].argmin()]  # y points down
            label = highest - (0, 0.1 + BODY_LABEL_HEIGHT_M / 2, 0)
            return _Figure(joints, measured, label, BODY_JOINT_SIZE_M, BODY_BONE_WIDTH_M, BODY_LABEL_HEIGHT_M)
        estimated = positions.sources[i] == PositionSource.ESTIMATED
        depth = float(positions.roots_m[i, 2]) if estimated else PLANE_DEPTH_M
        joints = camera.to_plane(people.keypoints_xy[i], depth)
        visible = visible & np.isfinite(joints).all(axis=1)
        corner = camera.to_plane(people.boxes_xyxy[i, :2], depth)
        if not np.isfinite(corner).all() and visible.any():  # beyond what the lens model knows
            corner = joints[visible][joints[visible, 1].argmin()]
        height = LABEL_HEIGHT_M * depth
        label = corner - (0, height / 2, 0)
        return _Figure(joints, visible, label, JOINT_SIZE_M * depth, BONE_WIDTH_M * depth, height)


def _text(track_id: int, score: float, positions: Positions, i: int) -> str:
    text = f"{track_id}: {score:.2f}" if track_id > 0 else f"{score:.2f}"
    if positions.sources[i] == PositionSource.NONE:
        return text
    distance_m = float(np.linalg.norm(positions.roots_m[i]))
    if positions.sources[i] == PositionSource.DEPTH:
        return f"{text}  {distance_m:.2f} m"
    return f"{text}  ~{distance_m:.1f} m +- {positions.stds_m[i]:.1f}"


def _marker(namespace: str, marker_id: int, kind: int, header: Header, colour: ColorRGBA) -> Marker:
    marker = Marker(header=header, ns=namespace, id=marker_id, type=kind, action=Marker.ADD, color=colour)
    marker.pose.orientation.w = 1.0
    marker.lifetime = Duration(sec=LIFETIME_S)
    return marker


def _deletion(namespace: str, marker_id: int, header: Header) -> Marker:
    return Marker(header=header, ns=namespace, id=marker_id, action=Marker.DELETE)


def _colour(number: int) -> ColorRGBA:
    red, green, blue = colour_of(number)
    return ColorRGBA(r=red / 255.0, g=green / 255.0, b=blue / 255.0, a=1.0)
