"""People as RViz markers: joints, bones and a label for each, on the image plane one metre before the camera.

RViz's Camera display lays them over the picture where CameraInfo is there; in a 3D view they stand before the
camera.
"""

from __future__ import annotations

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from kdc_core.draw import colour_of
from kdc_core.skeleton import LIMBS
from kdc_core.types import People
from kdc_ros.camera import Pinhole

NAMESPACES = ("joints", "bones", "labels")
PLANE_DEPTH_M = 1.0
JOINT_SIZE_M = 0.012
BONE_WIDTH_M = 0.006
LABEL_HEIGHT_M = 0.03
# Should the node die, its markers go away by themselves.
LIFETIME_S = 2


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

    def build(self, people: People, track_ids: np.ndarray, header: Header, camera: Pinhole) -> MarkerArray:
        """Markers of the people of one image; keypoints under the threshold are left out.

        track_ids: int (N,), 0 = not tracked. header: the input image's. camera: its projection.
        """
        points = camera.to_plane(people.keypoints_xy, PLANE_DEPTH_M)
        heads = camera.to_plane(people.boxes_xyxy[:, :2], PLANE_DEPTH_M)
        visible = people.keypoint_scores >= max(self.keypoint_threshold, np.finfo(np.float32).tiny)
        message = MarkerArray()
        shown: set[int] = set()
        for i, track_id in enumerate(track_ids.tolist()):
            marker_id = track_id if track_id > 0 else -1 - i
            shown.add(marker_id)
            colour = _colour(track_id if track_id > 0 else i + 1)
            corners = [Point(x=x, y=y, z=z) for x, y, z in points[i].tolist()]
            joints = _marker("joints", marker_id, Marker.SPHERE_LIST, header, colour)
            joints.scale.x = joints.scale.y = joints.scale.z = JOINT_SIZE_M
            joints.points = [corners[k] for k in np.flatnonzero(visible[i])]
            bones = _marker("bones", marker_id, Marker.LINE_LIST, header, colour)
            bones.scale.x = BONE_WIDTH_M
            bones.points = [
                corners[end] for a, b in LIMBS if visible[i, a] and visible[i, b] for end in (a, b)
            ]
            label = _marker("labels", marker_id, Marker.TEXT_VIEW_FACING, header, colour)
            label.scale.z = LABEL_HEIGHT_M
            label.text = f"{track_id}: {people.scores[i]:.2f}" if track_id > 0 else f"{people.scores[i]:.2f}"
            x, y, z = heads[i].tolist()
            label.pose.position = Point(x=x, y=y - LABEL_HEIGHT_M / 2, z=z)
            # An empty list marker makes RViz complain; without joints there is none to show.
            for marker in (joints, bones):
                if not marker.points:
                    marker.action = Marker.DELETE
            message.markers += [joints, bones, label]
        for marker_id in sorted(self._shown - shown):
            message.markers += [_deletion(namespace, marker_id, header) for namespace in NAMESPACES]
        self._shown = shown
        return message


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
