"""The camera of demo.launch.py: images with their calibration, over and over."""

from __future__ import annotations

import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
import rclpy
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from kdc_core.camera import CameraModel
from kdc_ros.camera import camera_from_info
from kdc_ros.demo.looping_camera import LoopingCamera
from kdc_ros.demo.playlist import PICTURE_FRAMES, PlaylistError
from kdc_ros.image_conversion import image_to_rgb
from kdc_ros.spinning import SpinThread
from tests.ros.processes import EXCHANGE_TIMEOUT_S, wait_until


@pytest.fixture
def picture(tmp_path):
    """A picture file and its pixels, uint8 (H, W, 3) RGB."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return path, pixels


def test_a_picture_is_played_with_its_calibration(ros, picture):
    path, pixels = picture
    parameters = {"input": str(path), "rate_hz": 100.0, "frame_id": "optical"}
    camera = LoopingCamera(parameter_overrides=[Parameter(name, value=value) for name, value in parameters.items()])
    peer = rclpy.create_node("viewer")
    images: list[Image] = []
    infos: list[CameraInfo] = []
    qos = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
    peer.create_subscription(Image, "image", images.append, qos)
    peer.create_subscription(CameraInfo, "camera_info", infos.append, qos)
    listening = SpinThread(peer)
    playing = threading.Thread(target=camera.play, daemon=True)
    playing.start()
    try:
        # More than the clip has: it starts again.
        assert wait_until(lambda: len(images) > 2 * PICTURE_FRAMES and len(infos) > 1, EXCHANGE_TIMEOUT_S)
    finally:
        camera.stop()
        playing.join(EXCHANGE_TIMEOUT_S)
        listening.stop()
        peer.destroy_node()
        camera.destroy_node()
    assert not playing.is_alive()
    assert images[0].header.frame_id == "optical"
    assert np.array_equal(image_to_rgb(images[0]), pixels)
    stamps = [(m.header.stamp.sec, m.header.stamp.nanosec) for m in images]
    assert stamps == sorted(set(stamps))
    assert {(m.header.stamp.sec, m.header.stamp.nanosec) for m in infos} & set(stamps)
    assert camera_from_info(infos[0], (40, 60)) == CameraModel.guess((40, 60))


def test_what_cannot_be_played_is_told(ros):
    with pytest.raises(PlaylistError, match="does not exist"):
        LoopingCamera(parameter_overrides=[Parameter("input", value="nothing.mp4")])


def test_a_parameter_of_the_wrong_type_is_one_line():
    command = [sys.executable, "-m", "kdc_ros.demo.looping_camera", "--ros-args", "-p", "rate_hz:=5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=EXCHANGE_TIMEOUT_S)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "rate_hz" in said and "Traceback" not in said
