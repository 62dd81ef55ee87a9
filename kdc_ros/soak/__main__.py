"""Runs the node for many frames, does to it what months do, and tells whether it bore it.

    python -m kdc_ros.soak --frames 10000 --model weights/kdc_mobile.onnx

Ends with exit code 1 when anything was not as it must be. Uses a ROS domain of its own, on this machine alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from kdc_core.backends.base import ModelLoadError
from kdc_core.model_path import default_model_path
from kdc_ros.demo.processes import camera_environment, isolate_ros
from kdc_ros.soak.watched import Progress, run_watched

# Longer than anything that the test itself waits for.
PATIENCE_S = 120.0


def main() -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m kdc_ros.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=10_000, help="frames after warm-up (default: 10000)")
    parser.add_argument("--model", type=Path, help="ONNX file (default: the shipped one)")
    arguments = parser.parse_args()
    namespace = isolate_ros()
    os.environ.update(camera_environment())
    with tempfile.TemporaryDirectory(prefix="kdc_soak_") as folder:
        os.environ["ROS_LOG_DIR"] = folder
        try:
            # A copy, which may be replaced and deleted.
            shutil.copyfile(arguments.model or default_model_path(), Path(folder, "model.onnx"))
        except (ModelLoadError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        command = [sys.executable, "-m", "kdc_ros.soak.judge", namespace, folder, str(arguments.frames)]
        try:
            return run_watched(command, Progress.of(Path(folder)), PATIENCE_S)
        except KeyboardInterrupt:
            return 130


if __name__ == "__main__":
    sys.exit(main())
