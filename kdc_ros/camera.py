"""The camera's calibration as it comes in CameraInfo."""

from __future__ import annotations

from sensor_msgs.msg import CameraInfo

from kdc_core.camera import FISHEYE_MODELS, CameraModel

# Scaling and binning round each side to whole pixels.
_SHAPE_TOLERANCE = 0.02


def same_shape(one_hw: tuple[int, int], other_hw: tuple[int, int]) -> bool:
    """Whether two pictures (height, width) may be the same one, scaled."""
    tolerance = _SHAPE_TOLERANCE + 1 / min(*one_hw, *other_hw)
    return abs(one_hw[0] * other_hw[1] / (one_hw[1] * other_hw[0]) - 1) <= tolerance


def camera_from_info(info: CameraInfo, image_hw: tuple[int, int], rectified: bool = False) -> CameraModel | None:
    """The calibration for an image of this size; None when the message holds none (fx = 0, or no size).

    K and P are those of the whole sensor at full resolution; the region of interest is cut out of it and then binned.
    An image of another size than that is taken as scaled. rectified: the image is; P holds, without distortion.
    Raises ValueError for a calibration that makes no sense, such as an unknown distortion model, or that is of another
    picture: one of another shape.
    """
    matrix = info.p if rectified else info.k
    fy, cy = (matrix[5], matrix[6]) if rectified else (matrix[4], matrix[5])
    if matrix[0] == 0 or fy == 0 or info.width == 0 or info.height == 0:
        return None
    window = info.roi
    height, width = window.height or info.height, window.width or info.width
    model = info.distortion_model or "plumb_bob"
    distortion = () if rectified else tuple(info.d)
    if not any(distortion):
        # Without distortion a fisheye still is none of a pinhole's: its angles grow with the distance (r = f theta).
        distortion = (0.0,) * 4 if model in FISHEYE_MODELS and not rectified else ()
    camera = CameraModel(
        fx=matrix[0],
        fy=fy,
        cx=matrix[2] - window.x_offset,
        cy=cy - window.y_offset,
        distortion=distortion,
        model=model,
    )
    if not same_shape((height, width), image_hw):
        raise ValueError(f"it is of a picture of {width} x {height}, the image has {image_hw[1]} x {image_hw[0]}")
    # Binning makes the image smaller, as any other scaling does.
    return camera.resized((height, width), image_hw)
