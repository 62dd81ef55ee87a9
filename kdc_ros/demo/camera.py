"""A camera that plays a playlist: sensor_msgs/Image on `camera/image_raw`, in a process of its own.

It waits until the node and the recorder have subscribed, then publishes at a steady rate with the present
time as stamp, and notes in a journal what it published when. Run by `python -m kdc_ros.demo`.
"""

from __future__ import annotations

import argparse
import sys
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
import rclpy
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from kdc_replay.demo_scene.photos import PhotoError
from kdc_ros.demo.journal import Published, note
from kdc_ros.demo.playlist import Clip, PlaylistError, built_in, from_input

TOPIC = "camera/image_raw"
FRAME_ID = "demo_camera_optical_frame"
# Reliable, so that the recorder misses no picture; the node asks for less, and gets less.
IMAGES = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
_DISCOVERY_POLL_S = 0.1
# Discovery has two sides: the camera sees a subscriber a little before that one hears the camera.
_SETTLE_S = 0.5


class FakeCamera(Node):
    """Publishes frames and writes the journal."""

    def __init__(self, journal: TextIO) -> None:
        super().__init__("demo_camera")
        self._publisher = self.create_publisher(Image, TOPIC, IMAGES)
        self._journal = journal

    def wait_for_subscribers(self, count: int, timeout_s: float) -> bool:
        """Wait until so many have subscribed. Returns False when the time is over."""
        end = time.monotonic() + timeout_s
        while self._publisher.get_subscription_count() < count:
            if time.monotonic() > end:
                return False
            # Wakes at once when the context is shut down by a signal.
            rclpy.spin_once(self, timeout_sec=_DISCOVERY_POLL_S)
        return True

    def play(self, clips: list[Clip]) -> None:
        """Publish all clips, each at its rate. A frame that takes longer to make delays those after it."""
        frames = _with_due_times(clips)
        pending = next(frames, None)
        start = time.monotonic()
        while pending is not None:
            clip, index, due_s, image = pending
            if (early := start + due_s - time.monotonic()) > 0:
                time.sleep(early)
            else:
                start -= early
            if not self.context.ok():
                return
            self._publish(clip, index, image)
            pending = next(frames, None)
        self._publisher.wait_for_all_acked(Duration(seconds=2.0))

    def _publish(self, clip: Clip, index: int, image: np.ndarray) -> None:
        message = image_message(image, clip.encoding)
        stamp = self.get_clock().now()
        message.header.stamp = stamp.to_msg()
        message.header.frame_id = FRAME_ID
        note(self._journal, Published(clip.name, index, stamp.nanoseconds))
        self._publisher.publish(message)


def _with_due_times(clips: list[Clip]) -> Iterator[tuple[Clip, int, float, np.ndarray]]:
    """Every frame with its clip, its place in it and when it is due, in seconds from the start."""
    due_s = 0.0
    for clip in clips:
        for index, image in enumerate(clip.frames()):
            yield clip, index, due_s, image
            due_s += 1 / clip.fps


def image_message(image: np.ndarray, encoding: str) -> Image:
    """A picture, uint8 (H, W, 3) or (H, W), as a message."""
    height, width = image.shape[:2]
    message = Image(
        height=height, width=width, encoding=encoding, step=width * (image.size // (height * width))
    )
    # An array('B') is taken over as it is; bytes would be copied element by element.
    data = array("B")
    data.frombytes(np.ascontiguousarray(image).tobytes())
    message.data = data
    return message


def _arguments(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--input", help="pictures, a folder, a video or a device; the built-in photographs without"
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="a video or a device is played no longer")
    parser.add_argument("--journal", type=Path, required=True, help="file to note the published frames in")
    parser.add_argument("--subscribers", type=int, default=2, help="wait for so many before playing")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for them")
    return parser.parse_known_args(args)[0]


def main(args: list[str] | None = None) -> int:
    """Play once. Returns the exit code: 0, or 1 when nobody listened or the input cannot be played."""
    options = _arguments(args)
    rclpy.init(args=args)
    try:
        with options.journal.open("w") as journal:
            camera = FakeCamera(journal)
            clips = from_input(options.input, options.seconds) if options.input else built_in()
            if not options.input:
                # Made before the first is due: while it plays, the processor is the node's.
                clips = [_ready(clip) for clip in clips]
            if not camera.wait_for_subscribers(options.subscribers, options.timeout):
                print(f"nobody subscribed to the camera within {options.timeout:.0f} s", file=sys.stderr)
                return 1
            time.sleep(_SETTLE_S)
            camera.play(clips)
    except (PlaylistError, PhotoError) as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        return 1
    finally:
        rclpy.try_shutdown()
    return 0


def _ready(clip: Clip) -> Clip:
    frames = list(clip.frames())
    return Clip(clip.name, clip.fps, clip.encoding, clip.moving, lambda: frames)


if __name__ == "__main__":
    sys.exit(main())
