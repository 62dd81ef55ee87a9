"""Who imports what: each part in a fresh process, and what must be absent from it afterwards."""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ROS_MODULES = ("rclpy", "sensor_msgs", "kdc.msg", "cv_bridge", "message_filters")


def modules_of(package: str, skip: tuple[str, ...] = ()) -> list[str]:
    """All modules of a package in this checkout, without those whose name has a part in `skip`."""
    found = [package]
    for info in pkgutil.walk_packages([str(REPOSITORY / package)], prefix=f"{package}."):
        if not any(part in info.name for part in skip):
            found.append(info.name)
    return found


def loaded_after(modules: list[str], candidates: tuple[str, ...]) -> list[str]:
    """Which of the candidates are in sys.modules after a fresh process has imported the modules."""
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print(','.join(m for m in {candidates!r} if m in sys.modules))\n"
    )
    # The checkout first: the source tree is what is tested, wherever it is installed as well.
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [name for name in done.stdout.strip().split(",") if name]


def test_core_is_free_of_ros_and_torch():
    # The torch and TensorRT backends too: they import what they stand for when they load a model.
    modules = modules_of("kdc_core")
    lazy = {"kdc_core.backends.torch_program", "kdc_core.backends.tensorrt.backend", "kdc_core.precision.half"}
    assert lazy <= set(modules)
    forbidden = ("torch", "tensorrt", "tensorrt_rtx", "cuda", "onnx", *ROS_MODULES, "kdc_ros", "kdc_model", "kdc_cli")
    assert loaded_after(modules, forbidden) == []


def test_core_itself_needs_no_inference_runtime():
    assert loaded_after(["kdc_core", "kdc_core.pipeline"], ("onnxruntime", "torch", "tensorrt")) == []


def test_node_is_free_of_torch():
    pytest.importorskip("rclpy", reason="needs ROS 2")
    loaded = loaded_after(modules_of("kdc_ros", skip=("demo", "bench")), ("rclpy", "torch", "tensorrt", "kdc_model"))
    assert loaded == ["rclpy"]


def test_replay_is_free_of_torch_and_ros():
    # What reads bags or draws is imported by its user; scores import TrackEval when they are asked for.
    modules = modules_of("kdc_replay", skip=("__main__",))
    assert "kdc_replay.track_scores" in modules
    assert loaded_after(modules, ("torch", "tensorrt", "trackeval", "kdc_model", *ROS_MODULES, "kdc_ros")) == []


def test_benchmarks_are_free_of_torch_ros_and_peers():
    modules = modules_of("kdc_bench", skip=("plot",))
    assert "kdc_bench.peers.suite" in modules
    assert loaded_after(modules, (*ROS_MODULES, "torch", "ultralytics", "mmpose", "matplotlib", "pycocotools")) == []


def test_training_is_free_of_ros():
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs torch")
    modules = [name for name in modules_of("kdc_model") if not name.endswith("__main__")]
    assert loaded_after(modules, (*ROS_MODULES, "kdc_ros", "tensorrt")) == []
