"""A camera that plays a clip over and over, for trying the node out. Executable: kdc_demo_camera.

Publishes  image (sensor_msgs/Image), camera_info (sensor_msgs/CameraInfo: a plain pinhole)
Parameters input: a picture, several, a folder or a video; empty = the built-in moving scene. loop: start again at the
           end. rate_hz: frames in a second, 0 = the clip's own. frame_id: the optical frame in the headers.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import rclpy
import rclpy.logging
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from kdc_core.camera import CameraModel
from kdc_replay.demo_scene.photos import PhotoError
from kdc_ros.demo.camera import FRAME_ID, IMAGES, image_message
from kdc_ros.demo.playlist import SCENE, Clip, PlaylistError, built_in, from_input

# Longer than any clip; the loop is what repeats.
_WHOLE_CLIP_S = 24 * 3600.0


class LoopingCamera(Node):
    """Publishes the frames of clips at their pace. Raises PlaylistError, PhotoError when there is nothing to play."""

    def __init__(self, **node_options: Any) -> None:
        super().__init__("kdc_demo_camera", **node_options)
        source = str(self.declare_parameter("input", "").value)
        self._loop = bool(self.declare_parameter("loop", True).value)
        self._rate_hz = float(self.declare_parameter("rate_hz", 0.0).value)
        self._frame_id = str(self.declare_parameter("frame_id", FRAME_ID).value)
        self._clips = from_input(source, _WHOLE_CLIP_S) if source else [_ready(_scene())]
        self._images = self.create_publisher(Image, "image", IMAGES)
        self._infos = self.create_publisher(CameraInfo, "camera_info", IMAGES)
        self._stopped = False
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    def stop(self) -> None:
        """End `play`, from another thread."""
        self._stopped = True

    def play(self) -> None:
        """Publish until the end, or for ever; returns when ROS is shut down or `stop` was called."""
        due_s = time.monotonic()
        for clip, image in self._frames():
            while (early_s := due_s - time.monotonic()) > 0 and self.context.ok():
                # Answers parameter requests meanwhile, and ends at once on a signal.
                self._executor.spin_once(timeout_sec=early_s)
            if self._stopped or not self.context.ok():
                return
            # A frame that took longer to make delays those after it.
            due_s = max(due_s, time.monotonic()) + 1 / (self._rate_hz if self._rate_hz > 0 else clip.fps)
            self._publish(clip, image)

    def _frames(self) -> Iterator[tuple[Clip, np.ndarray]]:
        while True:
            for clip in self._clips:
                for image in clip.frames():
                    yield clip, image
            if not self._loop:
                return

    def _publish(self, clip: Clip, image: np.ndarray) -> None:
        message = image_message(image, clip.encoding)
        message.header.stamp = self.get_clock().now().to_msg()
        message.header.frame_id = self._frame_id
        self._infos.publish(_camera_info(message))
        self._images.publish(message)


def _scene() -> Clip:
    return next(clip for clip in built_in() if clip.name == SCENE)


def _ready(clip: Clip) -> Clip:
    """The clip with its frames made once, so that the processor is the node's while it plays."""
    frames = list(clip.frames())
    return Clip(clip.name, clip.fps, clip.encoding, clip.moving, lambda: frames)


def _camera_info(image: Image) -> CameraInfo:
    camera = CameraModel.guess((image.height, image.width))
    info = CameraInfo(header=image.header, height=image.height, width=image.width, distortion_model="plumb_bob")
    info.d = [0.0] * 5
    info.k = camera.matrix.ravel()
    info.r = np.eye(3).ravel()
    info.p = np.hstack([camera.matrix, np.zeros((3, 1))]).ravel()
    return info


def main(args: list[str] | None = None) -> int:
    """Play. Returns the exit code: 0, or 1 when the input cannot be played."""
    logger = rclpy.logging.get_logger("kdc_demo_camera")
    camera = None
    try:
        rclpy.init(args=args)
        camera = LoopingCamera()
        camera.play()
    except (PlaylistError, PhotoError) as error:
        logger.fatal(str(error))
        return 1
    except ParameterException as error:
        logger.fatal(" ".join(str(error).split()))
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RuntimeError:  # rclpy's own exceptions derive from it; after a signal has shut ROS down publishing fails
        if rclpy.ok():
            raise
    finally:
        if camera is not None:
            camera.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
