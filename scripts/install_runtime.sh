#!/usr/bin/env bash
# install_runtime.sh VENV: numpy, OpenCV, ONNX Runtime, the command `kdc`, and, where no distribution is sourced,
# the real rclpy and the interface generators from wheels.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$1
python="$venv/bin/python"

editable=(--no-deps --editable "$root")
echo "installing the runtime into $venv"
if [ "$(cat "$venv/ros_mode")" = wheels ]; then
    "$root/scripts/install_requirements.sh" "$venv" "$root/requirements/runtime.txt" "$root/requirements/ros-wheels.txt"
    "$python" "$root/scripts/patch_ros_wheels.py"
    editable+=(--no-build-isolation)  # setuptools is pinned and there
else
    "$root/scripts/install_requirements.sh" "$venv" "$root/requirements/runtime.txt"
    # colcon comes from the distribution's apt packages; where it does not, from PyPI.
    command -v colcon > /dev/null || "$python" -m pip install --quiet colcon-common-extensions
    "$python" -c 'import setuptools' 2> /dev/null || "$python" -m pip install --quiet 'setuptools<80'
fi
# The command `kdc`, run from this checkout. Its requirements are there already.
"$python" -m pip install --quiet --disable-pip-version-check "${editable[@]}"
