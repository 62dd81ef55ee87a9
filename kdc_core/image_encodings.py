"""Pictures as cameras send them, to uint8 RGB: the encodings of sensor_msgs/Image, and compressed pictures.

No ROS in here: the live node and the reading of recorded bags share it. Everything is checked first, so that a
malformed picture ends in an `ImageConversionError` which says what is wrong, whoever converts it afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from kdc_core import jpeg


class ImageConversionError(ValueError):
    """An image message that is malformed, or whose encoding holds no colours."""


@dataclass(frozen=True)
class Encoding:
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
_ENCODINGS: dict[str, Encoding] = {
    **{f"{name}8": Encoding(samples, code) for name, (samples, code) in _COLOUR.items()},
    **{f"{name}16": Encoding(samples, code, itemsize=2) for name, (samples, code) in _COLOUR.items()},
    # "yuv422" and "yuv422_yuy2" are the older names of the same two layouts.
    "uyvy": Encoding(2, cv2.COLOR_YUV2RGB_UYVY, even_sized=True, in_bridge=False),
    "yuv422": Encoding(2, cv2.COLOR_YUV2RGB_UYVY, even_sized=True),
    "yuyv": Encoding(2, cv2.COLOR_YUV2RGB_YUYV, even_sized=True, in_bridge=False),
    "yuv422_yuy2": Encoding(2, cv2.COLOR_YUV2RGB_YUYV, even_sized=True),
    "nv12": Encoding(1, cv2.COLOR_YUV2RGB_NV12, even_sized=True, planar=True, in_bridge=False),
    "nv21": Encoding(1, cv2.COLOR_YUV2RGB_NV21, even_sized=True, planar=True, in_bridge=False),
}
SUPPORTED_ENCODINGS: tuple[str, ...] = tuple(_ENCODINGS)

# As cv_bridge does it: the whole 16-bit range onto the whole 8-bit range, rounded.
_SIXTEEN_TO_EIGHT = 255.0 / 65535.0


def check_layout(encoding: str, height: int, width: int, step: int, size_bytes: int) -> Encoding:
    """The encoding called so, once it is certain that a picture's size, row step and data agree with it.

    height, width in pixels; step: bytes of a row; size_bytes: of all data. Raises ImageConversionError.
    """
    if height == 0 or width == 0:
        raise ImageConversionError(f"image of {width} x {height} pixels has nothing in it")
    known = _ENCODINGS.get(encoding)
    if known is None:
        raise ImageConversionError(f"encoding '{encoding}' is not one of {', '.join(SUPPORTED_ENCODINGS)}")
    if known.even_sized and (width % 2 or (known.planar and height % 2)):
        raise ImageConversionError(f"'{encoding}' needs an even size, the image is {width} x {height}")
    row_bytes = width * known.samples * known.itemsize
    if step < row_bytes or step % known.itemsize:
        raise ImageConversionError(f"a row of '{encoding}' takes {row_bytes} bytes, the row step is {step}")
    needed = step * _rows(height, known)
    if size_bytes < needed:
        raise ImageConversionError(
            f"image of {width} x {height} '{encoding}' needs {needed} bytes, the message has {size_bytes}"
        )
    return known


def decode_image(
    data: Any, encoding: str, height: int, width: int, step: int, is_bigendian: bool
) -> np.ndarray:
    """The picture of a sensor_msgs/Image's fields as uint8 (H, W, 3) RGB; may share the data's memory.

    data: anything with the buffer protocol (bytes, array, uint8 numpy). height, width in pixels; step: bytes of a row.

    Row step, endianness, padding and chroma layout are respected; 16-bit samples are scaled to 8 bits.
    Raises ImageConversionError on an empty, truncated or otherwise malformed picture, and on an encoding
    without colours (such as 32FC1, a depth image).
    """
    content = memoryview(data).cast("B")
    known = check_layout(encoding, height, width, step, len(content))
    rows = _rows(height, known)
    row_samples = step // known.itemsize
    sample_type = "u1"
    if known.itemsize == 2:
        sample_type = ">u2" if is_bigendian else "<u2"
    samples = np.frombuffer(content, sample_type, count=rows * row_samples)
    picture: np.ndarray = samples.reshape(rows, row_samples)[:, : width * known.samples]
    if known.samples > 1:
        picture = picture.reshape(rows, width, known.samples)
    if known.itemsize == 2:
        picture = picture.astype(np.uint16)  # this machine's byte order
    picture = np.ascontiguousarray(picture)
    try:
        if known.code is not None:
            picture = cv2.cvtColor(picture, known.code)
        if known.itemsize == 2:
            picture = cv2.convertScaleAbs(picture, alpha=_SIXTEEN_TO_EIGHT)
    except cv2.error as error:
        raise ImageConversionError(f"OpenCV cannot convert '{encoding}' of {width} x {height}: {error}") from error
    return picture


def _rows(height: int, encoding: Encoding) -> int:
    """Rows in the buffer: planar encodings have a chroma plane of half the height below the luma plane."""
    return height * 3 // 2 if encoding.planar else height


# Of what no colours come; a compressed mosaic or grey picture is named otherwise.
_DEPTH_ENCODINGS = ("32F", "16UC", "16SC")


def decode_compressed(data: Any, image_format: str) -> np.ndarray:
    """The picture of a sensor_msgs/CompressedImage's fields, uint8 (H, W, 3) RGB.

    data: a JPEG, PNG or other picture file that OpenCV reads, as a buffer. image_format: the message's `format`, such
    as "jpeg" or "bgr8; jpeg compressed bgr8". Raises ImageConversionError for depth images, and for data that is no
    picture or ends early.
    """
    source_encoding = image_format.partition(";")[0].strip()
    if "compressedDepth" in image_format or source_encoding.startswith(_DEPTH_ENCODINGS):
        raise ImageConversionError(f"a compressed image of format '{image_format}' is depth and holds no colours")
    content = np.frombuffer(data, np.uint8)
    if len(content) == 0:
        raise ImageConversionError("the compressed image has no data")
    raw = content.tobytes()
    if raw.startswith(jpeg.START) and not jpeg.is_whole(raw):
        raise ImageConversionError(f"the JPEG of {len(raw)} bytes ends early")
    try:
        # A camera's picture is as the camera is mounted, whatever a tag in it says.
        picture = cv2.imdecode(content, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ImageConversionError(f"OpenCV cannot read the compressed image '{image_format}': {error}") from error
    if picture is None:
        raise ImageConversionError(f"the {len(raw)} bytes of '{image_format}' are not a picture that OpenCV can read")
    if picture.ndim == 3:
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    # A mosaic may have been compressed as it left the sensor, in grey. (A PNG of 16 bits has become 8 by now.)
    mosaic = source_encoding.startswith("bayer_") and source_encoding in _ENCODINGS
    encoding = source_encoding.replace("16", "8") if mosaic else "mono8"
    height, width = picture.shape
    return decode_image(picture, encoding, height, width, width, False)
