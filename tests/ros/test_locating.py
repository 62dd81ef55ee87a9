"""From messages to places: CameraInfo, depth images, and what is said when they do not fit."""

from __future__ import annotations

import sys
from array import array

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
from builtin_interfaces.msg import Time
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest
from std_msgs.msg import Header

from kdc_core.camera import CameraModel
from kdc_core.image_encodings import ImageConversionError
from kdc_core.positions import PositionSource
from kdc_ros.body_frames import body_transforms, roots_to_message
from kdc_ros.body_names import frames_fault, prefix_fault
from kdc_ros.camera import camera_from_info
from kdc_ros.depth_conversion import depth_from_message
from kdc_ros.frame import Frame
from kdc_ros.frame_statistics import FrameStatistics
from kdc_ros.locating import Locator
from kdc_ros.parameters import Settings
from tests.core.depth_scenes import IMAGE_HW, TRUNK_M, one_person
from tests.ros.fakes import FakeLogger

HEADER = Header(stamp=Time(sec=5), frame_id="optical")
K = [550.0, 0.0, 310.0, 0.0, 560.0, 245.0, 0.0, 0.0, 1.0]
PLUMB_BOB = [-0.28, 0.1, 0.001, -0.001, 0.0]


def camera_info(**fields) -> CameraInfo:
    return CameraInfo(width=640, height=480, k=K, **fields)


def depth_message(depth: np.ndarray, padding: int = 0, big: bool = False, frame_id: str = "optical") -> Image:
    """A depth image, float32 in metres or uint16 in millimetres, with so many unused bytes at the end of each row."""
    stored = depth.astype(depth.dtype.newbyteorder(">" if big else "<"))
    height, width = depth.shape
    rows = np.zeros((height, width * depth.itemsize + padding), np.uint8)
    rows[:, : width * depth.itemsize] = stored.view(np.uint8).reshape(height, -1)
    return Image(
        header=Header(frame_id=frame_id),
        height=height,
        width=width,
        encoding={"f": "32FC1", "u": "16UC1"}[depth.dtype.kind],
        step=rows.shape[1],
        is_bigendian=int(big),
        data=array("B", rows.tobytes()),
    )


@pytest.mark.parametrize("padding", [0, 8])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_depth_images(dtype, big, padding):
    depth = (np.random.default_rng(0).random((5, 7)) * 4000).astype(dtype)
    got = depth_from_message(depth_message(depth, padding, big))
    assert got.dtype == np.dtype(dtype)
    assert got.dtype.isnative
    assert sys.byteorder in ("little", "big")
    assert np.array_equal(got, depth)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoding": "rgb8"}, "encoding"),
        ({"height": 0}, "nothing in it"),
        ({"height": 6}, "needs"),
        ({"step": 5}, "row"),
        ({"step": 29}, "row"),
    ],
)
def test_a_malformed_depth_image_is_refused(change, said):
    message = depth_message(np.ones((5, 7), np.float32))
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(ImageConversionError, match=said):
        depth_from_message(message)


def test_calibration():
    assert camera_from_info(camera_info(), IMAGE_HW) == CameraModel(550, 560, 310, 245)
    half = camera_from_info(camera_info(), (240, 320))
    assert half == CameraModel(275, 280, 154.75, 122.25)
    bent = camera_from_info(camera_info(d=PLUMB_BOB, distortion_model="plumb_bob"), IMAGE_HW)
    assert bent.distortion == tuple(PLUMB_BOB)
    straight = camera_from_info(camera_info(d=[0.0] * 5, distortion_model="plumb_bob"), IMAGE_HW)
    assert straight.distortion == ()
    p = [500.0, 0.0, 320.0, 0.0, 0.0, 505.0, 240.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    rectified = camera_from_info(camera_info(d=PLUMB_BOB, distortion_model="plumb_bob", p=p), IMAGE_HW, rectified=True)
    assert rectified == CameraModel(500, 505, 320, 240)


def test_region_of_interest_and_binning():
    # The right lower quarter of the sensor, read out as half as many pixels each way.
    window = RegionOfInterest(x_offset=320, y_offset=240, width=320, height=240)
    cut = camera_from_info(camera_info(roi=window, binning_x=2, binning_y=2), (120, 160))
    whole = camera_from_info(camera_info(), IMAGE_HW)
    # The centre of the cut's pixel (10, 20) is the corner of the sensor's pixels 320 + 20..21, 240 + 40..41.
    assert np.allclose(cut.to_plane(np.array([10.0, 20.0])), whole.to_plane(np.array([340.5, 280.5])))
    binned = camera_from_info(camera_info(binning_x=2, binning_y=2), (240, 320))
    assert binned == camera_from_info(camera_info(), (240, 320))


@pytest.mark.parametrize("d", [[], [0.0] * 4, [0.0] * 5])
@pytest.mark.parametrize("model", ["equidistant", "fisheye"])
def test_a_fisheye_without_distortion_is_no_pinhole(model, d):
    camera = camera_from_info(camera_info(d=d, distortion_model=model), IMAGE_HW)
    x = 310 + 550 * np.radians(60)  # r = f theta
    assert np.degrees(np.arctan2(*camera.rays(np.array([[x, 245.0]]))[0, [0, 2]])) == pytest.approx(60, abs=1e-3)
    rectified = camera_from_info(
        camera_info(d=d, distortion_model=model, p=[*K[:3], 0.0, *K[3:6], 0.0, *K[6:], 0.0]), IMAGE_HW, rectified=True
    )
    assert rectified.distortion == ()


def test_a_calibration_of_another_picture_is_refused():
    for image_hw in ((720, 1280), (640, 480), (400, 640)):
        with pytest.raises(ValueError, match="640 x 480"):
            camera_from_info(camera_info(), image_hw)
    for image_hw in ((479, 640), (360, 480), (24, 32), (13, 17)):  # as scaling and rounding make them
        assert camera_from_info(camera_info(), image_hw) is not None


def test_no_calibration():
    assert camera_from_info(CameraInfo(width=640, height=480), IMAGE_HW) is None
    assert camera_from_info(CameraInfo(k=K), IMAGE_HW) is None
    with pytest.raises(ValueError, match="mystery"):
        camera_from_info(camera_info(d=[0.1] * 5, distortion_model="mystery"), IMAGE_HW)
    with pytest.raises(ValueError, match="focal"):
        camera_from_info(CameraInfo(width=640, height=480, k=[-1.0, *K[1:]]), IMAGE_HW)


def locate(depth=None, info=None, header=HEADER, settings=None):
    """Places of one made person, what was logged, and what was counted."""
    people, _ = one_person()
    logger, statistics = FakeLogger(), FrameStatistics()
    frame = Frame(np.zeros((*IMAGE_HW, 3), np.uint8), header, depth, info)
    located = Locator(logger, statistics).locate(frame, people, IMAGE_HW, settings or Settings())
    return located, [text for _, text in logger.lines], statistics.snapshot().unusable


@pytest.mark.parametrize("millimetres", [False, True])
def test_measured(millimetres):
    _, depth = one_person()
    depth = np.round(depth * 1000).astype(np.uint16) if millimetres else depth
    located, said, _ = locate(depth_message(depth), camera_info())
    assert located.positions.sources.tolist() == [PositionSource.DEPTH]
    assert located.positions.roots_m[0, 2] == pytest.approx(TRUNK_M)
    assert said == [] and located.by_depth


def test_estimated_or_not():
    located, said, _ = locate(None, camera_info())
    assert located.positions.sources.tolist() == [PositionSource.ESTIMATED]
    assert said == [] and not located.by_depth
    child, *_ = locate(None, camera_info(), settings=Settings(body_height_m=0.83))
    assert child.positions.roots_m[0, 2] == pytest.approx(located.positions.roots_m[0, 2] / 2, rel=0.05)
    assert child.positions.stds_m[0] < located.positions.stds_m[0]
    silent, *_ = locate(None, camera_info(), settings=Settings(estimate_distance=False))
    assert silent.positions.sources.tolist() == [PositionSource.NONE]


def test_what_stands_in_the_way_is_counted_and_said():
    _, depth = one_person()
    for arguments, words in (
        ({"depth": depth_message(depth)}, "no calibration"),
        ({"info": camera_info(d=[0.1] * 5, distortion_model="mystery")}, "mystery"),
        ({"depth": Image(encoding="rgb8", header=HEADER), "info": camera_info()}, "encoding"),
        ({"depth": depth_message(depth[:, :400]), "info": camera_info()}, "400 x 480"),
        ({"info": CameraInfo(width=1280, height=720, k=K)}, "1280 x 720"),
    ):
        located, said, counted = locate(**arguments)
        assert len(said) == 1, arguments
        assert words in said[0]
        assert counted == {said[0]: 1}
        assert len(located.positions) == 1 and not located.by_depth
    located, said, counted = locate(None, None)  # a plain webcam is nothing to talk about
    assert said == [] and not counted
    assert located.camera == CameraModel.guess(IMAGE_HW)


def test_what_may_be_meant_so_is_said_once_and_not_counted():
    people, depth = one_person()
    empty = CameraInfo(width=640, height=480)
    for depth_image, info, words in (
        (depth_message(depth, frame_id="elsewhere"), camera_info(), "elsewhere"),
        (None, empty, "CameraInfo holds no calibration (K or the size is zero)"),
    ):
        logger, statistics = FakeLogger(), FrameStatistics()
        locator = Locator(logger, statistics)
        frame = Frame(np.zeros((*IMAGE_HW, 3), np.uint8), HEADER, depth_image, info)
        for _ in range(3):
            locator.locate(frame, people, IMAGE_HW, Settings())
        [(level, text)] = logger.lines
        assert level == "warning" and words in text
        assert not statistics.snapshot().unusable
    # Where depth is there, too, it is more than that.
    located, said, counted = locate(depth_message(depth), empty)
    assert len(said) == 2 and sum(counted.values()) == 1 and not located.by_depth


def test_again_and_again_it_is_counted():
    people, _ = one_person()
    logger, statistics = FakeLogger(), FrameStatistics()
    locator = Locator(logger, statistics)
    frame = Frame(np.zeros((*IMAGE_HW, 3), np.uint8), HEADER, Image(encoding="rgb8", header=HEADER), camera_info())
    for _ in range(3):
        locator.locate(frame, people, IMAGE_HW, Settings())
    [(cause, count)] = statistics.snapshot().unusable.items()
    assert count == 3 and "rgb8" in cause
    assert "3 times so far" in logger.lines[-1][1]
    for n in range(200):  # ever new nonsense
        frame.depth.encoding = f"{n:x}"
        locator.locate(frame, people, IMAGE_HW, Settings())
    unusable = statistics.snapshot().unusable
    assert unusable.total() == 203 and len(unusable) < 60


def test_frames_and_poses_of_people():
    _, depth = one_person()
    located, *_ = locate(depth_message(depth), camera_info())
    [transform] = body_transforms(located.positions, np.array([12]), HEADER, "p")
    assert transform.header == HEADER
    assert transform.child_frame_id == "body_p12"
    place, turn = transform.transform.translation, transform.transform.rotation
    assert (place.x, place.y, place.z) == tuple(located.positions.roots_m[0])
    axes = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_matrix()
    assert np.allclose(axes[:, 2], [0, -1, 0], atol=1e-9)  # up
    assert axes[2, 0] < -0.9  # the made person faces the camera
    poses = roots_to_message(located.positions, HEADER)
    assert poses.header == HEADER
    assert [pose.position.z for pose in poses.poses] == [place.z]
    assert poses.poses[0].orientation == turn
    # Nobody without an id, a place or a frame to hang on.
    assert body_transforms(located.positions, np.array([0]), HEADER, "p") == []
    assert body_transforms(located.positions, np.array([12]), Header(stamp=HEADER.stamp), "p") == []
    # TF keeps the first of several transforms of one time: those without a time would stand still for good.
    assert body_transforms(located.positions, np.array([12]), Header(frame_id="optical"), "p") == []
    nowhere, *_ = locate(None, None)
    assert body_transforms(nowhere.positions, np.array([12]), HEADER, "p") == []
    assert roots_to_message(nowhere.positions, HEADER).poses == []


def test_names_start_with_a_letter():
    assert not any(prefix_fault(name) for name in ("p", "front_", "Camera2_"))
    assert all(prefix_fault(name) for name in ("", "1", "_p", "a b", "a/b", "ä", "p\n"))


def test_frames_need_tf2_msgs(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "tf2_msgs" in frames_fault(True)
    assert frames_fault(False) == ""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert frames_fault(True) == ""
