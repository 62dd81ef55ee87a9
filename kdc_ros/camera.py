"""The camera's calibration as it comes in CameraInfo."""

from __future__ import annotations

from sensor_msgs.msg import CameraInfo

from kdc_core.camera import CameraModel


def camera_from_info(info: CameraInfo, image_hw: tuple[int, int], rectified: bool = False) -> CameraModel | None:
    """The calibration for an image of this size; None when the message holds none (fx = 0, or no size).

    K and P are those of the whole sensor at full resolution; the region of interest is cut out of it and then binned.
    An image of another size than that is taken as scaled. rectified: the image is; P holds, without distortion.
    Raises ValueError for a calibration that makes no sense, such as an unknown distortion model.
    """
    matrix = info.p if rectified else info.k
    fy, cy = (matrix[5], matrix[6]) if rectified else (matrix[4], matrix[5])
    if matrix[0] == 0 or fy == 0 or info.width == 0 or info.height == 0:
        return None
    window = info.roi
    height, width = window.height or info.height, window.width or info.width
    distortion = () if rectified or not any(info.d) else tuple(info.d)
    camera = CameraModel(
        fx=matrix[0],
        fy=fy,
        cx=matrix[2] - window.x_offset,
        cy=cy - window.y_offset,
        distortion=distortion,
        model=info.distortion_model or "plumb_bob",
    )
    # Binning makes the image smaller, as any other scaling does.
    return camera.resized((height, width), image_hw)
