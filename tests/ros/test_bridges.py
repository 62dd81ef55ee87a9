"""The bridges: kdc's people as REP-155 bodies and as vision_msgs detections, over DDS."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
import rclpy
from builtin_interfaces.msg import Time
from kdc.msg import Keypoint, PersonPose, PoseArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from kdc_core.positions import Positions, PositionSource
from kdc_core.tracking import FrameTracks
from kdc_core.types import People
from kdc_ros.bridges import hri, hri_messages
from kdc_ros.bridges.hri import HriBridge
from kdc_ros.bridges.vision import VisionBridge, detections_to_message, root_covariance
from kdc_ros.conversions import poses_to_message
from kdc_ros.image_conversion import image_to_rgb, rgb_to_message
from tests.ros.processes import EXCHANGE_TIMEOUT_S, wait_until

IMAGE_HW = (200, 400)
BOX = (100.0, 40.0, 180.0, 150.0)
# REP-155's order, written out once more from the standard.
REP_155 = [
    *("NOSE", "NECK", "RIGHT_SHOULDER", "RIGHT_ELBOW", "RIGHT_WRIST", "LEFT_SHOULDER", "LEFT_ELBOW", "LEFT_WRIST"),
    *("RIGHT_HIP", "RIGHT_KNEE", "RIGHT_ANKLE", "LEFT_HIP", "LEFT_KNEE", "LEFT_ANKLE"),
    *("LEFT_EYE", "RIGHT_EYE", "LEFT_EAR", "RIGHT_EAR"),
]


def header(sec: int) -> Header:
    return Header(stamp=Time(sec=sec, nanosec=9), frame_id="optical")


def poses(sec: int, track_ids=(7,), source=PositionSource.NONE) -> PoseArray:
    """People who all stand in the same place; joint k at (100 + 3 k, 50 + 5 k) with the score 0.3 + 0.02 k."""
    count = len(track_ids)
    k = np.arange(17)
    people = People(
        np.tile(np.stack([100 + 3 * k, 50 + 5 * k], axis=1), (count, 1, 1)).astype(np.float32),
        np.tile(0.3 + 0.02 * k, (count, 1)).astype(np.float32),
        np.full(count, 0.75, np.float32),
        np.tile(BOX, (count, 1)).astype(np.float32),
    )
    positions = Positions.unknown(count)
    if source != PositionSource.NONE:
        positions.roots_m[:], positions.stds_m[:], positions.sources[:] = (0.0, 0.0, 3.0), 0.4, source
    tracks = dataclasses.replace(FrameTracks.untracked(count), ids=np.array(track_ids, np.int32))
    return poses_to_message(people, tracks, header(sec), IMAGE_HW, positions)


def test_the_skeleton_in_the_standards_order():
    [person] = poses(1).people
    points = hri_messages.skeleton_points(person, IMAGE_HW)
    for point, name in zip(points, REP_155):
        if name == "NECK":
            assert np.allclose(point[:2] * (400, 200), (116.5 + 0.5, 77.5 + 0.5))  # between the joints 5 and 6
            assert point[2] == pytest.approx(0.4)  # the weaker shoulder's
            continue
        k = getattr(Keypoint, name)
        assert np.allclose(point[:2] * (400, 200), (100.5 + 3 * k, 50.5 + 5 * k), atol=1e-4), name
        assert point[2] == pytest.approx(0.3 + 0.02 * k)


def test_what_is_missing_or_outside_has_no_confidence():
    [person] = poses(1).people
    shoulder, wrist, nose = (person.keypoints[k] for k in (Keypoint.LEFT_SHOULDER, Keypoint.LEFT_WRIST, Keypoint.NOSE))
    shoulder.x = shoulder.y = float("nan")
    shoulder.score = 0.0
    wrist.x = 405.0
    nose.y = -3.0
    points = dict(zip(REP_155, hri_messages.skeleton_points(person, IMAGE_HW).tolist()))
    for name in ("LEFT_SHOULDER", "NECK", "LEFT_WRIST", "NOSE"):
        assert points[name] == [0.0, 0.0, 0.0]
    assert points["RIGHT_SHOULDER"][2] > 0
    assert all(0 <= value <= 1 for point in points.values() for value in point)


def test_a_box_beyond_the_border_is_cut():
    person = PersonPose(x_min=-50.0, y_min=150.0, x_max=30.0, y_max=260.0, score=0.5)
    image = np.arange(200 * 400 * 3, dtype=np.uint8).reshape(200, 400, 3)
    assert np.array_equal(hri_messages.crop(image, person), image[150:, :31])
    fields = SimpleNamespace(NormalizedRegionOfInterest2D=lambda **values: values)
    region = hri_messages.region_to_message(person, header(1), IMAGE_HW, fields)
    assert (region["xmin"], region["ymax"], region["c"]) == (0.0, 1.0, 0.5)
    assert region["xmax"] * 400 == pytest.approx(30.5)
    far = PersonPose(x_min=900.0, y_min=10.0, x_max=950.0, y_max=20.0)
    nowhere = PersonPose(x_min=float("nan"), y_min=10.0, x_max=float("nan"), y_max=20.0)
    assert hri_messages.crop(image, far).size == 0
    assert hri_messages.crop(image, nowhere).shape[0] <= 11


def test_the_covariance_lies_along_the_line_of_sight():
    person = PersonPose(distance_std_m=0.5)
    person.root.x, person.root.y, person.root.z = 3.0, 0.0, 4.0
    covariance = root_covariance(person)
    ray, across = np.array([0.6, 0, 0.8]), np.array([0.8, 0, -0.6])
    assert ray @ covariance[:3, :3] @ ray == pytest.approx(0.25)
    assert across @ covariance[:3, :3] @ across == pytest.approx(0.01)


class Exchange:
    """A bridge and a peer of it in one executor; what the peer hears is kept by topic."""

    def __init__(self, bridge) -> None:
        self.bridge, self.peer = bridge, rclpy.create_node("bridge_peer")
        self.heard: dict[str, list] = {}
        self._executor = SingleThreadedExecutor()
        for node in (self.bridge, self.peer):
            self._executor.add_node(node)
        self._publishers = {kind: self.peer.create_publisher(kind, topic, 10) for kind, topic in self.TOPICS.items()}

    TOPICS = {PoseArray: "kdc/poses", Image: "image"}

    def listen(self, kind, topic) -> None:
        self.heard[topic] = []
        self.peer.create_subscription(kind, topic, self.heard[topic].append, QoSProfile(depth=20))

    def spin_until(self, condition, *messages) -> None:
        """Send the messages, anew now and then, until a condition holds."""
        turns = 0

        def turn() -> bool:
            nonlocal turns
            if turns % 20 == 0:
                for message in messages:
                    self._publishers[type(message)].publish(message)
            turns += 1
            for _ in range(5):
                self._executor.spin_once(timeout_sec=0.005)
            return condition()

        assert wait_until(turn, EXCHANGE_TIMEOUT_S)

    def newest(self, topic, sec):
        """The newest message with a stamp, None without."""
        return next((m for m in reversed(self.heard[topic]) if m.header.stamp.sec == sec), None)

    def topics(self) -> set[str]:
        return {
            name
            for name, _ in self.peer.get_publisher_names_and_types_by_node("kdc_hri_bridge", "/")
            if name.startswith("/humans")
        }

    def close(self) -> None:
        self._executor.shutdown()
        self.bridge.destroy_node()
        self.peer.destroy_node()


@pytest.fixture
def exchange(ros):
    made = []

    def make(bridge):
        made.append(Exchange(bridge))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_bodies_come_and_go(exchange):
    messages = pytest.importorskip("hri_msgs.msg", reason="needs hri_msgs (make test-setup builds it)")
    constants = [getattr(messages.Skeleton2D, name) for name in REP_155]
    assert constants == list(range(18))
    # Long enough that nobody goes by a stall of the machine while the test looks at them.
    talk = exchange(HriBridge(messages, parameter_overrides=[Parameter("hold_s", value=3.0)]))
    talk.listen(messages.IdsList, "/humans/bodies/tracked")
    body = "/humans/bodies/p7"
    talk.listen(messages.NormalizedRegionOfInterest2D, f"{body}/roi")
    talk.listen(messages.Skeleton2D, f"{body}/skeleton2d")
    talk.listen(Image, f"{body}/cropped")
    picture = np.random.default_rng(0).integers(0, 255, (*IMAGE_HW, 3), np.uint8)
    image, people = rgb_to_message(picture, header(5)), poses(5, track_ids=(7, 0, 12))
    talk.spin_until(lambda: all(talk.newest(topic, 5) for topic in talk.heard), image, people)

    ids = talk.newest("/humans/bodies/tracked", 5)
    assert list(ids.ids) == ["p12", "p7"]  # the untracked person has no body
    assert all(name[0].isalpha() for name in ids.ids)
    skeleton = talk.newest(f"{body}/skeleton2d", 5)
    assert len(skeleton.skeleton) == 18
    region = talk.newest(f"{body}/roi", 5)
    cropped = talk.newest(f"{body}/cropped", 5)
    assert ids.header == skeleton.header == region.header == cropped.header == header(5)
    corners = np.array([region.xmin, region.ymin, region.xmax, region.ymax]) * (400, 200, 400, 200)
    assert np.allclose(corners, np.array(BOX) + 0.5, atol=1e-3)
    assert region.c == pytest.approx(0.75)
    assert np.array_equal(image_to_rgb(cropped), picture[40:151, 100:181])
    assert {f"/humans/bodies/p12/{name}" for name in ("roi", "cropped", "skeleton2d")} <= talk.topics()

    # One of them leaves: its topics go, and soon it is off the list.
    talk.spin_until(lambda: not any("p7/" in topic for topic in talk.topics()), poses(6, track_ids=(12,)))
    talk.spin_until(
        lambda: any(list(m.ids) == ["p12"] for m in talk.heard["/humans/bodies/tracked"]), poses(6, track_ids=(12,))
    )
    # The camera stops: nobody is left.
    talk.spin_until(lambda: talk.topics() == {"/humans/bodies/tracked"})
    talk.spin_until(lambda: list(talk.heard["/humans/bodies/tracked"][-1].ids) == [])


def test_images_wait_for_a_slow_network(exchange):
    """Forty frames later, which at 30 Hz are 1.3 s, and neither for ever nor in any amount of memory."""
    messages = pytest.importorskip("hri_msgs.msg", reason="needs hri_msgs (make test-setup builds it)")
    talk = exchange(HriBridge(messages))
    topic = "/humans/bodies/p7/cropped"
    talk.listen(Image, topic)
    picture = np.random.default_rng(0).integers(0, 255, (*IMAGE_HW, 3), np.uint8)
    talk.spin_until(lambda: talk.newest(topic, 5), rgb_to_message(picture, header(5)), poses(5))
    bridge = talk.bridge
    for sec in range(100, 140):
        bridge._on_image(rgb_to_message(picture, header(sec)))
    bridge._on_poses(poses(100))
    talk.spin_until(lambda: talk.newest(topic, 100))
    assert bridge._image_bytes == len(bridge._images) * picture.nbytes
    bridge._on_image(rgb_to_message(picture, header(139)))
    assert bridge._image_bytes == len(bridge._images) * picture.nbytes, "the same stamp again is the same image"
    large = Image(header=header(200), data=bytes(hri.KEPT_BYTES))
    bridge._on_image(large)
    assert len(bridge._images) == 1 and bridge._image_bytes == hri.KEPT_BYTES


def test_images_do_not_wait_for_ever(exchange, monkeypatch):
    messages = pytest.importorskip("hri_msgs.msg", reason="needs hri_msgs (make test-setup builds it)")
    now_s = 100.0
    monkeypatch.setattr(hri, "time", SimpleNamespace(monotonic=lambda: now_s))
    bridge = exchange(HriBridge(messages)).bridge
    for sec in range(8):
        bridge._on_image(Image(header=header(sec), data=bytes(10)))
        now_s += 0.5
    assert [sec for sec, _ in bridge._images] == [3, 4, 5, 6, 7] and bridge._image_bytes == 50


def test_poses_of_an_image_without_size_end_no_bridge(exchange):
    messages = pytest.importorskip("hri_msgs.msg", reason="needs hri_msgs (make test-setup builds it)")
    bridge = exchange(HriBridge(messages)).bridge
    odd = poses(5)
    odd.image_width = odd.image_height = 0
    bridge._on_poses(odd)
    assert not bridge._bodies


def test_a_person_in_the_camera_itself_has_no_place():
    messages = pytest.importorskip("vision_msgs.msg", reason="needs vision_msgs (make test-setup builds it)")
    odd = poses(5, source=PositionSource.ESTIMATED)
    odd.people[0].root.z = 0.0
    [detection] = detections_to_message(odd, "p", messages).detections
    assert detection.results[0].pose.covariance[0] == -1


def test_parameters_that_are_read_once_cannot_change(exchange):
    messages = pytest.importorskip("hri_msgs.msg", reason="needs hri_msgs (make test-setup builds it)")
    bridge = exchange(HriBridge(messages)).bridge
    for name, value in (("body_prefix", "q"), ("hold_s", 2.0)):
        [result] = bridge.set_parameters([Parameter(name, value=value)])
        assert not result.successful


def test_detections(exchange):
    messages = pytest.importorskip("vision_msgs.msg", reason="needs vision_msgs (make test-setup builds it)")
    talk = exchange(VisionBridge(messages, parameter_overrides=[Parameter("body_prefix", value="front_p")]))
    topic = "/kdc_vision_bridge/detections"
    talk.listen(messages.Detection2DArray, topic)
    talk.spin_until(lambda: talk.newest(topic, 5), poses(5, (7, 0), PositionSource.ESTIMATED))
    found = talk.newest(topic, 5)
    assert found.header == header(5)
    assert [d.id for d in found.detections] == ["front_p7", ""]
    detection = found.detections[0]
    assert detection.header == header(5)
    assert (detection.bbox.center.position.x, detection.bbox.center.position.y) == (140.0, 95.0)
    assert (detection.bbox.size_x, detection.bbox.size_y) == (80.0, 110.0)
    [result] = detection.results
    assert result.hypothesis.class_id == "person"
    assert result.hypothesis.score == pytest.approx(0.75)
    assert result.pose.pose.position.z == 3.0
    assert result.pose.covariance[14] == pytest.approx(0.16)  # z, z
    talk.spin_until(lambda: talk.newest(topic, 6), poses(6, ()))
    assert talk.newest(topic, 6).detections == []
    talk.spin_until(lambda: talk.newest(topic, 8), poses(8))
    assert talk.newest(topic, 8).detections[0].results[0].pose.covariance[0] == -1


@pytest.mark.parametrize(("module", "package"), [("hri", "hri_msgs"), ("vision", "vision_msgs")])
def test_without_the_package_one_clear_line(module, package):
    code = (
        f"import sys; sys.modules['{package}'] = None\n"
        f"from kdc_ros.bridges.{module} import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert len(lines) == 1
    assert f"{package} is not installed" in lines[0]


def test_a_parameter_of_another_type_is_one_clear_line(ros):
    code = (
        "import sys; from types import SimpleNamespace as S; from kdc_ros.bridges import startup\n"
        "from rclpy.node import Node\n"
        "def make(messages):\n"
        "    node = Node('bridge')\n"
        "    node.declare_parameter('hold_s', 1.0)\n"
        "    return node\n"
        "sys.exit(startup.run('kdc', make, 'bridge', ['--ros-args', '-p', 'hold_s:=2']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert len(lines) == 1 and "hold_s" in lines[0]


def test_a_bad_parameter_is_refused(ros):
    for override, said in ((("body_prefix", "7"), "letter"), (("hold_s", -1.0), "hold_s")):
        parameter = Parameter(override[0], value=override[1])
        fields = SimpleNamespace(IdsList=PoseArray)
        with pytest.raises(ValueError, match=said):
            HriBridge(fields, parameter_overrides=[parameter])
