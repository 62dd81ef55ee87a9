"""kdc/PoseArray as vision_msgs/Detection2DArray: boxes, scores and ids. Executable: kdc_vision_bridge.

Subscribes  kdc/poses
Publishes   ~/detections (vision_msgs/Detection2DArray), with the same header
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
from kdc.msg import PersonPose, PoseArray
from rclpy.node import Node

from kdc_ros.body_names import body_id, prefix_fault
from kdc_ros.bridges.startup import FIXED, run
from kdc_ros.qos import NEWEST, RESULTS

CLASS_ID = "person"
# Nothing is known of a person's orientation, and little of the place across the line of sight (about the hips' width).
_ANGLE_VARIANCE = 1e3
_SIDEWAYS_STD_M = 0.1


def detections_to_message(poses: PoseArray, prefix: str, messages: ModuleType) -> Any:
    """The people as detections: class "person", and as id the body's name ("p12"), empty when it is not tracked.

    messages: `vision_msgs.msg`. The pose is that of the person's root, where that is known; otherwise its covariance
    starts with -1.
    """
    return messages.Detection2DArray(
        header=poses.header, detections=[_detection(person, poses, prefix, messages) for person in poses.people]
    )


def _detection(person: PersonPose, poses: PoseArray, prefix: str, messages: ModuleType) -> Any:
    detection = messages.Detection2D(header=poses.header)
    detection.id = body_id(person.track_id, prefix) if person.track_id > 0 else ""
    detection.bbox.center.position.x = (person.x_min + person.x_max) / 2
    detection.bbox.center.position.y = (person.y_min + person.y_max) / 2
    detection.bbox.size_x = person.x_max - person.x_min
    detection.bbox.size_y = person.y_max - person.y_min
    result = messages.ObjectHypothesisWithPose()
    result.hypothesis.class_id = CLASS_ID
    result.hypothesis.score = person.score
    if person.position_source == PersonPose.POSITION_NONE or not (person.root.x or person.root.y or person.root.z):
        result.pose.covariance[0] = -1.0
    else:
        result.pose.pose.position = person.root
        result.pose.covariance = root_covariance(person).ravel()
    detection.results = [result]
    return detection


def root_covariance(person: PersonPose) -> np.ndarray:
    """Covariance of a person's root (x, y, z in metres, then three angles), float64 (6, 6).

    The stated deviation along the line of sight, a tenth of a metre across it, and angles that are not known.
    """
    root = np.array([person.root.x, person.root.y, person.root.z])
    ray = root / np.linalg.norm(root)
    along = np.outer(ray, ray)
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = person.distance_std_m**2 * along + _SIDEWAYS_STD_M**2 * (np.eye(3) - along)
    covariance[3:, 3:] = _ANGLE_VARIANCE * np.eye(3)
    return covariance


class VisionBridge(Node):
    """Translates each message as it comes. Raises ValueError for a prefix that begins no name."""

    def __init__(self, messages: ModuleType, **node_options: Any) -> None:
        super().__init__("kdc_vision_bridge", **node_options)
        self._messages = messages
        self._prefix = str(self.declare_parameter("body_prefix", "p", FIXED).value)
        if fault := prefix_fault(self._prefix):
            raise ValueError(f"parameter 'body_prefix' {fault}")
        self._detections = self.create_publisher(messages.Detection2DArray, "~/detections", RESULTS)
        self.create_subscription(PoseArray, "kdc/poses", self._on_poses, NEWEST)

    def _on_poses(self, poses: PoseArray) -> None:
        if self._detections.get_subscription_count() > 0:
            self._detections.publish(detections_to_message(poses, self._prefix, self._messages))


def main(args: list[str] | None = None) -> int:
    """Run the bridge. Returns the exit code."""
    return run("vision_msgs", VisionBridge, "kdc_vision_bridge", args)


if __name__ == "__main__":
    sys.exit(main())
