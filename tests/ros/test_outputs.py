"""Everything that goes out for one frame, over DDS: alike in stamp, frame and ids, and only made for a listener."""

from __future__ import annotations

import dataclasses
import time

import cv2
import geometry_msgs.msg
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
import rclpy
from builtin_interfaces.msg import Time
from kdc.msg import InstanceMaskArray, InstancePolygonsArray, PersonPose, PoseArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from kdc_core.polygons import rings_to_mask
from kdc_core.tracking import FrameTracks
from kdc_core.types import FrameResult, People
from kdc_ros import outputs as outputs_module
from kdc_ros.conversions import people_from_messages, rings_from_message
from kdc_ros.frame import Frame
from kdc_ros.frame_statistics import FrameStatistics
from kdc_ros.image_conversion import image_to_rgb
from kdc_ros.outputs import Outputs
from kdc_ros.parameters import Settings
from kdc_ros.qos import MismatchLog
from tests.core.depth_scenes import IMAGE_HW, TRUNK_M, one_person
from tests.ros.test_locating import camera_info, depth_message

HEADER = Header(stamp=Time(sec=77, nanosec=5), frame_id="optical")
TRACKS = dataclasses.replace(FrameTracks.untracked(1), ids=np.array([41], np.int32))
TOPICS = {
    "poses": PoseArray,
    "roots": geometry_msgs.msg.PoseArray,
    "masks": InstanceMaskArray,
    "mask_image": Image,
    "polygons": InstancePolygonsArray,
    "markers": MarkerArray,
    "overlay": Image,
    "overlay/compressed": CompressedImage,
}
TIMEOUT_S = 60.0


@pytest.fixture
def publisher(ros):
    """The outputs of a node of their own."""
    node = rclpy.create_node("sender")
    outputs = Outputs(node, MismatchLog(node.get_logger()), FrameStatistics())
    outputs.activate()
    yield outputs
    outputs.close()
    node.destroy_node()


class Listener:
    """Subscribes to some topics and keeps the newest message of each."""

    def __init__(self, topics) -> None:
        self.node = rclpy.create_node("listener")
        self.newest: dict[str, object] = {}
        qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        for topic in topics:
            self.node.create_subscription(
                TOPICS[topic], f"/sender/{topic}", lambda m, topic=topic: self.newest.__setitem__(topic, m), qos
            )
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)

    def receive(self, publish, topics) -> None:
        """Publish until all of these topics have brought something."""
        self.spin_until(lambda: set(topics) <= set(self.newest), publish)

    def spin_until(self, condition, publish) -> None:
        """Publish until a condition holds."""
        end = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < end, f"only {sorted(self.newest)} arrived"
            publish()
            for _ in range(20):
                self._executor.spin_once(timeout_sec=0.01)

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()


@pytest.fixture
def listen(ros):
    made = []

    def make(topics):
        made.append(Listener(topics))
        return made[-1]

    yield make
    for listener in made:
        listener.close()


def a_frame():
    people, depth = one_person()
    image = np.full((*IMAGE_HW, 3), 90, np.uint8)
    frame = Frame(image, HEADER, depth_message(depth), camera_info())
    return frame, FrameResult(people, IMAGE_HW)


def test_one_frame_one_stamp_one_id(publisher, listen):
    frame, result = a_frame()
    listener = listen(TOPICS)
    listener.receive(lambda: publisher.publish(frame, result, TRACKS, Settings(overlay_jpeg_quality=95)), TOPICS)
    got = listener.newest
    for topic, message in got.items():
        headers = [m.header for m in message.markers] if topic == "markers" else [message.header]
        assert all(header == HEADER for header in headers), topic

    people, ids = people_from_messages(got["poses"], got["masks"])
    assert ids.tolist() == [41]
    assert np.array_equal(people.mask_labels, result.people.mask_labels)
    person = got["poses"].people[0]
    assert person.position_source == PersonPose.POSITION_DEPTH
    assert person.root.z == pytest.approx(TRUNK_M)
    [root] = got["roots"].poses
    assert root.position == person.root

    assert got["mask_image"].encoding == "mono8"
    labels = np.frombuffer(got["mask_image"].data, np.uint8).reshape(IMAGE_HW)
    assert np.array_equal(labels, people.mask_labels)
    [polygons] = got["polygons"].instances
    assert polygons.track_id == 41
    outline = rings_to_mask(rings_from_message(polygons), IMAGE_HW)
    assert (outline & people.mask(0)).sum() / (outline | people.mask(0)).sum() > 0.97
    assert {m.id for m in got["markers"].markers if m.action == Marker.ADD} == {41}

    drawn = image_to_rgb(got["overlay"])
    assert (drawn != frame.image).any(axis=2).mean() > 0.03
    compressed = got["overlay/compressed"]
    assert compressed.format == "rgb8; jpeg compressed bgr8"
    unpacked = cv2.cvtColor(cv2.imdecode(np.frombuffer(compressed.data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.abs(unpacked.astype(int) - drawn).mean() < 4


def test_what_nobody_listens_to_is_not_made(publisher, listen, monkeypatch):
    makers = ("masks_to_message", "label_image_to_message", "polygons_to_message", "roots_to_message", "draw_people")
    for name in (*makers, "rgb_to_message", "rgb_to_jpeg_message"):
        monkeypatch.setattr(outputs_module, name, lambda *_, name=name: pytest.fail(f"{name} was called"))
    frame, result = a_frame()
    listener = listen(["poses"])
    listener.receive(lambda: publisher.publish(frame, result, TRACKS, Settings()), ["poses"])
    assert set(listener.newest) == {"poses"}


def test_frames_of_people(publisher, listen):
    messages = pytest.importorskip("tf2_msgs.msg", reason="needs tf2_msgs (make test-setup builds it)")
    frame, result = a_frame()
    listener = listen(["poses"])
    heard = []
    listener.node.create_subscription(messages.TFMessage, "/tf", heard.append, 10)
    settings = Settings(body_frames=True, body_prefix="front_p")
    listener.receive(lambda: publisher.publish(frame, result, TRACKS, settings), ["poses"])
    listener.spin_until(lambda: heard, lambda: publisher.publish(frame, result, TRACKS, settings))
    [transform] = heard[0].transforms
    assert transform.header == HEADER
    assert transform.child_frame_id == "body_front_p41"
    assert transform.transform.translation.z == pytest.approx(TRUNK_M)
    heard.clear()
    listener.newest.clear()
    listener.receive(lambda: publisher.publish(frame, result, TRACKS, Settings()), ["poses"])
    assert heard == []  # off unless asked for


def test_a_label_image_for_more_people_than_bytes_hold(publisher, listen):
    frame, result = a_frame()
    listener = listen(["mask_image"])
    listener.receive(lambda: publisher.publish(frame, result, TRACKS, Settings(max_people=300)), ["mask_image"])
    assert listener.newest["mask_image"].encoding == "16UC1"


def test_a_picture_too_long_for_a_jpeg_is_published_all_the_same(publisher, listen):
    image = np.zeros((2, 70_000, 3), np.uint8)
    frame, result = Frame(image, HEADER), FrameResult(People.empty((2, 70_000)), (2, 70_000))
    listener = listen(["poses", "overlay/compressed"])
    nobody = FrameTracks.untracked(0)
    listener.receive(lambda: publisher.publish(frame, result, nobody, Settings()), ["poses"])
    assert listener.newest["poses"].image_width == 70_000 and "overlay/compressed" not in listener.newest


def test_closed_outputs_stay_silent_and_open_again(publisher):
    frame, result = a_frame()
    publisher.close()
    publisher.publish(frame, result, TRACKS, Settings())
    publisher.close()
    publisher.activate()
    publisher.publish(frame, result, TRACKS, Settings())
