"""KDC's perception core: image in, people out. numpy, OpenCV and one inference runtime; no ROS, no torch."""

from kdc_core.skeleton import KEYPOINT_NAMES, NUM_KEYPOINTS
from kdc_core.spec import ModelSpec, ModelSpecError
from kdc_core.types import FrameResult, People

__version__ = "0.1.0"
__all__ = ["KEYPOINT_NAMES", "NUM_KEYPOINTS", "FrameResult", "ModelSpec", "ModelSpecError", "People", "__version__"]
