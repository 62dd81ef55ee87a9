"""Pictures as JPEG messages."""

from __future__ import annotations

from array import array

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header


def rgb_to_jpeg_message(image: np.ndarray, header: Header, quality: int) -> CompressedImage:
    """A picture, uint8 (H, W, 3) RGB, as image_transport's compressed message. quality: 1..100.

    Raises ValueError for a picture that JPEG cannot hold (a side beyond 65,500 pixels).
    """
    good, content = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    if not good:
        raise ValueError(f"a picture of {image.shape[1]} x {image.shape[0]} pixels cannot be made a JPEG")
    data = array("B")
    data.frombytes(content.data)
    return CompressedImage(header=header, format="rgb8; jpeg compressed bgr8", data=data)
