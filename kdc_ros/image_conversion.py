"""sensor_msgs/Image to numpy and back: cv_bridge where it imports, our stand-in of the same behaviour else.

Every message is checked here first, so that a malformed one ends in an `ImageConversionError` which says what
is wrong, whoever converts it afterwards.
"""

from __future__ import annotations

import functools
from array import array
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from kdc_core.image_encodings import (
    SUPPORTED_ENCODINGS,
    Encoding,
    ImageConversionError,
    check_layout,
    decode_compressed,
    decode_image,
)
from kdc_core.picture_header import compressed_hw

__all__ = [
    "SUPPORTED_ENCODINGS",
    "ImageConversionError",
    "convert_without_bridge",
    "image_to_rgb",
    "message_to_rgb",
    "rgb_to_message",
]


@functools.cache
def _cv_bridge() -> Any | None:
    """A CvBridge, or None where cv_bridge is not installed (or was built for another numpy)."""
    try:
        from cv_bridge import CvBridge
    except ImportError:
        return None
    return CvBridge()


def message_to_rgb(message: Image | CompressedImage, max_pixels: int) -> np.ndarray:
    """The picture of a raw or compressed image message, uint8 (H, W, 3) RGB; may share the message's memory.

    Raises ImageConversionError as `image_to_rgb` does, and for more than `max_pixels` pixels (a compressed
    picture is not decoded then).
    """
    compressed = isinstance(message, CompressedImage)
    height, width = compressed_hw(message.data) if compressed else (message.height, message.width)
    if height * width > max_pixels:
        raise ImageConversionError(
            f"image of {width} x {height} pixels is larger than max_image_megapixels ({max_pixels / 1e6:g}) allows"
        )
    return decode_compressed(message.data, message.format) if compressed else image_to_rgb(message)


def image_to_rgb(message: Image) -> np.ndarray:
    """The picture of an image message as uint8 (H, W, 3) RGB; may share the message's memory.

    Row step, endianness, padding and chroma layout are respected; 16-bit samples are scaled to 8 bits.
    Raises ImageConversionError on an empty, truncated or otherwise malformed message, and on an encoding
    without colours (such as 32FC1, a depth image).
    """
    encoding = _check(message)
    bridge = _cv_bridge()
    if bridge is None or not _bridge_reads(message, encoding):
        return convert_without_bridge(message)
    try:
        return np.ascontiguousarray(bridge.imgmsg_to_cv2(message, "rgb8"))
    except (TypeError, ValueError, RuntimeError, cv2.error) as error:  # CvBridgeError is a TypeError
        raise ImageConversionError(f"cv_bridge cannot convert '{message.encoding}': {error}") from error


def convert_without_bridge(message: Image) -> np.ndarray:
    """`image_to_rgb` by numpy and OpenCV alone: the stand-in for cv_bridge."""
    return decode_image(
        message.data, message.encoding, message.height, message.width, message.step, bool(message.is_bigendian)
    )


def _bridge_reads(message: Image, encoding: Encoding) -> bool:
    """Whether cv_bridge's Python side reads the message rightly.

    It takes the row step for a whole number of pixels, and its byte swap, of 8-bit samples too, fails with numpy 2.
    """
    whole_pixels = message.step % (encoding.samples * encoding.itemsize) == 0
    return encoding.in_bridge and whole_pixels and not message.is_bigendian


def _check(message: Image) -> Encoding:
    return check_layout(message.encoding, message.height, message.width, message.step, len(message.data))


def rgb_to_message(image: np.ndarray, header: Header) -> Image:
    """A picture, uint8 (H, W, 3) RGB, as an rgb8 message with the given header (not copied)."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected uint8 (H, W, 3), got {image.dtype} {image.shape}")
    height, width = image.shape[:2]
    message = Image(header=header, height=height, width=width, encoding="rgb8", step=3 * width)
    # An array('B') is taken over as it is; bytes or lists would be copied element by element.
    data = array("B")
    data.frombytes(np.ascontiguousarray(image).reshape(-1).data)
    message.data = data
    return message
