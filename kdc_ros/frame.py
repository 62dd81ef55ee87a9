"""One camera frame on its way through the node."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture and what belongs to the same moment.

    image:       uint8 (H, W, 3) RGB, the picture that is processed.
    header:      the picture's own header, as it came.
    depth:       the depth image paired with it (see `kdc_ros.pairing`), as it came; None without.
    camera_info: the calibration that holds for the picture; None while there is none.
    """

    image: np.ndarray
    header: Header
    depth: Image | None = None
    camera_info: CameraInfo | None = None
