"""sensor_msgs/Image to numpy and back: cv_bridge where it imports, our stand-in of the same behaviour else.

Every message is checked here first, so that a malformed one ends in an `ImageConversionError` which says what
is wrong, whoever converts it afterwards.
"""

from __future__ import annotations

import functools
from array import array
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header


class ImageConversionError(ValueError):
    """An image message that is malformed, or whose encoding holds no colours."""


@dataclass(frozen=True)
class _Encoding:
    """How an encoding lies in memory, and OpenCV's code that makes RGB of it (None: it is RGB already).

    samples:    values for each pixel and row; for the planar ones, of the first (luma) plane.
    itemsize:   bytes of one sample.
    even_sized: pixels share chroma, so the width (and for planar ones the height) must be even.
    planar:     a half-height chroma plane follows the luma plane.
    in_bridge:  every cv_bridge from Humble on knows it as well.
    """

    samples: int
    code: int | None
    itemsize: int = 1
    even_sized: bool = False
    planar: bool = False
    in_bridge: bool = True


_COLOUR = {
    "rgb": (3, None),
    "bgr": (3, cv2.COLOR_BGR2RGB),
    "rgba": (4, cv2.COLOR_RGBA2RGB),
    "bgra": (4, cv2.COLOR_BGRA2RGB),
    "mono": (1, cv2.COLOR_GRAY2RGB),
    # OpenCV names a Bayer pattern by the second row's second and third pixel.
    "bayer_rggb": (1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr": (1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg": (1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg": (1, cv2.COLOR_BayerGB2RGB),
}
_ENCODINGS: dict[str, _Encoding] = {
    **{f"{name}8": _Encoding(samples, code) for name, (samples, code) in _COLOUR.items()},
    **{f"{name}16": _Encoding(samples, code, itemsize=2) for name, (samples, code) in _COLOUR.items()},
    # "yuv422" and "yuv422_yuy2" are the older names of the same two layouts.
    "uyvy": _Encoding(2, cv2.COLOR_YUV2RGB_UYVY, even_sized=True, in_bridge=False),
    "yuv422": _Encoding(2, cv2.COLOR_YUV2RGB_UYVY, even_sized=True),
    "yuyv": _Encoding(2, cv2.COLOR_YUV2RGB_YUYV, even_sized=True, in_bridge=False),
    "yuv422_yuy2": _Encoding(2, cv2.COLOR_YUV2RGB_YUYV, even_sized=True),
    "nv12": _Encoding(1, cv2.COLOR_YUV2RGB_NV12, even_sized=True, planar=True, in_bridge=False),
    "nv21": _Encoding(1, cv2.COLOR_YUV2RGB_NV21, even_sized=True, planar=True, in_bridge=False),
}
SUPPORTED_ENCODINGS: tuple[str, ...] = tuple(_ENCODINGS)

# As cv_bridge does it: the whole 16-bit range onto the whole 8-bit range, rounded.
_SIXTEEN_TO_EIGHT = 255.0 / 65535.0


@functools.cache
def _cv_bridge() -> Any | None:
    """A CvBridge, or None where cv_bridge is not installed (or was built for another numpy)."""
    try:
        from cv_bridge import CvBridge
    except ImportError:
        return None
    return CvBridge()


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
    encoding = _check(message)
    width = message.width
    rows = _rows(message, encoding)
    step = message.step // encoding.itemsize
    sample_type = "u1"
    if encoding.itemsize == 2:
        sample_type = ">u2" if message.is_bigendian else "<u2"
    samples = np.frombuffer(memoryview(message.data).cast("B"), sample_type, count=rows * step)
    picture: np.ndarray = samples.reshape(rows, step)[:, : width * encoding.samples]
    if encoding.samples > 1:
        picture = picture.reshape(rows, width, encoding.samples)
    if encoding.itemsize == 2:
        picture = picture.astype(np.uint16)  # this machine's byte order
    picture = np.ascontiguousarray(picture)
    try:
        if encoding.code is not None:
            picture = cv2.cvtColor(picture, encoding.code)
        if encoding.itemsize == 2:
            picture = cv2.convertScaleAbs(picture, alpha=_SIXTEEN_TO_EIGHT)
    except cv2.error as error:
        raise ImageConversionError(
            f"OpenCV cannot convert '{message.encoding}' of {width} x {message.height}: {error}"
        ) from error
    return picture


def _bridge_reads(message: Image, encoding: _Encoding) -> bool:
    """Whether cv_bridge's Python side reads the message rightly.

    It takes the row step for a whole number of pixels, and its byte swap does not work with numpy 2.
    """
    whole_pixels = message.step % (encoding.samples * encoding.itemsize) == 0
    return encoding.in_bridge and whole_pixels and not (encoding.itemsize == 2 and message.is_bigendian)


def _rows(message: Image, encoding: _Encoding) -> int:
    """Rows in the buffer: planar encodings have a chroma plane of half the height below the luma plane."""
    return message.height * 3 // 2 if encoding.planar else message.height


def _check(message: Image) -> _Encoding:
    """The message's encoding, once it is certain that size, step and data agree with it."""
    height, width, step, name = message.height, message.width, message.step, message.encoding
    if height == 0 or width == 0:
        raise ImageConversionError(f"image of {width} x {height} pixels has nothing in it")
    encoding = _ENCODINGS.get(name)
    if encoding is None:
        raise ImageConversionError(f"encoding '{name}' is not one of {', '.join(SUPPORTED_ENCODINGS)}")
    if encoding.even_sized and (width % 2 or (encoding.planar and height % 2)):
        raise ImageConversionError(f"'{name}' needs an even size, the image is {width} x {height}")
    row_bytes = width * encoding.samples * encoding.itemsize
    if step < row_bytes or step % encoding.itemsize:
        raise ImageConversionError(f"a row of '{name}' takes {row_bytes} bytes, the row step is {step}")
    needed = step * _rows(message, encoding)
    if len(message.data) < needed:
        raise ImageConversionError(
            f"image of {width} x {height} '{name}' needs {needed} bytes, the message has {len(message.data)}"
        )
    return encoding


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
