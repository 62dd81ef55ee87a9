"""Depth images as they come in messages: 16UC1 in millimetres, 32FC1 in metres (REP-118)."""

from __future__ import annotations

import numpy as np
from sensor_msgs.msg import Image

from kdc_core.image_encodings import ImageConversionError

_TYPES = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}


def depth_from_message(message: Image) -> np.ndarray:
    """The depths of a message, (h, w): uint16 in millimetres or float32 in metres; may share its memory.

    Row step and endianness are respected. Raises ImageConversionError on any other encoding, and on an empty or
    truncated message.
    """
    if message.encoding not in _TYPES:
        raise ImageConversionError(f"depth encoding '{message.encoding}' is not one of {', '.join(_TYPES)}")
    height, width, step = message.height, message.width, message.step
    if height == 0 or width == 0:
        raise ImageConversionError(f"depth image of {width} x {height} pixels has nothing in it")
    kind = np.dtype(_TYPES[message.encoding])
    if step < width * kind.itemsize or step % kind.itemsize:
        raise ImageConversionError(
            f"a row of '{message.encoding}' takes {width * kind.itemsize} bytes, the depth image's row step is {step}"
        )
    if len(message.data) < step * height:
        raise ImageConversionError(
            f"depth image of {width} x {height} needs {step * height} bytes, the message has {len(message.data)}"
        )
    stored = kind.newbyteorder(">" if message.is_bigendian else "<")
    rows = np.frombuffer(memoryview(message.data).cast("B"), stored, count=step * height // kind.itemsize)
    return rows.reshape(height, -1)[:, :width].astype(kind, copy=False)
