"""Image messages of every kind that a node meets in months: other sizes, other encodings, broken ones."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import cv2
import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from kdc_ros.image_conversion import rgb_to_message

SIZES_HW = ((480, 640), (360, 640), (720, 1280), (240, 320), (600, 400), (1, 1), (1, 640), (480, 3), (64, 16_384))


def picture(height: int, width: int) -> np.ndarray:
    """A bright picture, uint8 (H, W, 3) RGB."""
    rows = np.linspace(120, 220, height, dtype=np.uint8)
    return np.ascontiguousarray(np.broadcast_to(rows[:, None, None], (height, width, 3)))


def encoded(image: np.ndarray, encoding: str, header: Header) -> Image:
    """The picture in an encoding that OpenCV can make: mono8, mono16, bgr8, bgra8."""
    made = {
        "mono8": lambda: cv2.cvtColor(image, cv2.COLOR_RGB2GRAY),
        "mono16": lambda: cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.uint16) * 257,
        "bgr8": lambda: image[..., ::-1],
        "bgra8": lambda: cv2.cvtColor(image, cv2.COLOR_RGB2BGRA),
    }[encoding]()
    samples = np.ascontiguousarray(made)
    message = Image(header=header, height=image.shape[0], width=image.shape[1], encoding=encoding)
    message.step = samples.nbytes // len(samples)
    data = array("B")
    data.frombytes(samples.reshape(-1).view(np.uint8).data)
    message.data = data
    return message


ENCODINGS = ("mono8", "mono16", "bgr8", "bgra8")


def broken(header: Header) -> Iterator[Image]:
    """Messages that hold no picture: empty, cut off, mislabelled, of absurd sizes."""
    image = picture(48, 64)
    yield Image(header=header)
    cut = rgb_to_message(image, header)
    cut.data = cut.data[:100]
    yield cut
    for changes in (
        {"encoding": "32FC1"},
        {"encoding": "no such"},
        {"encoding": "bayer_rggb16", "step": 3},
        {"width": 2**32 - 1},
        {"height": 2**32 - 1},
        {"height": 0},
        {"step": 0},
        {"step": 2**32 - 1},
        {"width": 16_384, "height": 16_384, "step": 3 * 16_384},
    ):
        message = rgb_to_message(image, header)
        for name, value in changes.items():
            setattr(message, name, value)
        yield message
