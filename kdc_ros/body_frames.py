"""People's places as frames: TF's body_<id> (REP-155) and the poses that RViz shows."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Point, Pose, PoseArray, Quaternion, Transform, TransformStamped, Vector3
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header

from kdc_core.positions import Positions, PositionSource, body_rotation
from kdc_ros.body_names import body_frame
from kdc_ros.stamps import stamp_ns

# As tf2_ros broadcasts.
TF_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=100, reliability=ReliabilityPolicy.RELIABLE)


def body_transforms(positions: Positions, track_ids: np.ndarray, header: Header, prefix: str) -> list[TransformStamped]:
    """A transform from the camera's optical frame to each tracked person whose place is known.

    x forward, y left, z up (see `body_rotation`). track_ids: int (N,), 0 = not tracked: such people have no frame.
    Without a frame_id in the header there is none to hang them on; without a stamp, TF would keep the first for good.
    """
    if not header.frame_id or stamp_ns(header.stamp) is None:
        return []
    return [
        TransformStamped(
            header=header,
            child_frame_id=body_frame(int(track_ids[i]), prefix),
            transform=Transform(translation=Vector3(**_xyz(positions.roots_m[i])), rotation=_orientation(positions, i)),
        )
        for i in _placed(positions)
        if track_ids[i] > 0
    ]


def roots_to_message(positions: Positions, header: Header) -> PoseArray:
    """The people whose place is known as poses, for RViz: an arrow (x) in the direction that each one faces."""
    return PoseArray(
        header=header,
        poses=[
            Pose(position=Point(**_xyz(positions.roots_m[i])), orientation=_orientation(positions, i))
            for i in _placed(positions)
        ],
    )


def _placed(positions: Positions) -> list[int]:
    return np.flatnonzero(positions.sources != PositionSource.NONE).tolist()


def _orientation(positions: Positions, person: int) -> Quaternion:
    rotation = body_rotation(positions.roots_m[person], positions.keypoints_m[person])
    x, y, z, w = Rotation.from_matrix(rotation).as_quat().tolist()
    return Quaternion(x=x, y=y, z=z, w=w)


def _xyz(point_m: np.ndarray) -> dict[str, float]:
    return dict(zip("xyz", point_m.tolist()))
