"""Where the model file lies when nobody names one: the same rule for the command line and the node."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from kdc_core.backends.base import ModelLoadError

MODEL_VARIABLE = "KDC_MODEL"
MODEL_NAME = "kdc_mobile.onnx"


def default_model_path() -> Path:
    """The model file to use by default.

    The environment variable KDC_MODEL, else `weights/kdc_mobile.onnx` of this checkout, else what `pip install` brought
    (share/kdc/weights in Python's prefix), else that of an installed ROS package `kdc` (in the prefixes of
    AMENT_PREFIX_PATH). Raises ModelLoadError where there is none.
    """
    if named := os.environ.get(MODEL_VARIABLE):
        path = Path(os.path.expanduser(named))
        if not _is_file(path):
            raise ModelLoadError(f"the environment variable {MODEL_VARIABLE} names {path}: no such file")
        return path
    folders = [Path(__file__).resolve().parents[1] / "weights", Path(sys.prefix) / "share" / "kdc" / "weights"]
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    folders += [Path(prefix) / "share" / "kdc" / "weights" for prefix in prefixes if prefix]
    for folder in folders:
        if _is_file(folder / MODEL_NAME):
            return folder / MODEL_NAME
    raise ModelLoadError(
        f"there is no {MODEL_NAME} in {', '.join(map(str, folders))}: name a model file, or set the "
        f"environment variable {MODEL_VARIABLE} to one; `kdc train` and `kdc export` make one"
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder that may not be read, a name that is too long
        return False
