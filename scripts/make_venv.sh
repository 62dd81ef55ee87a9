#!/usr/bin/env bash
# make_venv.sh VENV: the virtual environment, after checking what the machine must bring.
# Environment: BASE_PYTHON, the interpreter to build on (default python3).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$1
base_python=${BASE_PYTHON:-python3}
mode=$("$root/scripts/ros_mode.sh")

fail() {
    echo "error: $1" >&2
    exit 1
}

for tool in "$base_python" gcc g++ cmake; do
    command -v "$tool" > /dev/null ||
        fail "$tool is missing. On Debian or Ubuntu: apt install python3 python3-venv python3-dev build-essential cmake"
done
version=$("$base_python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$base_python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' ||
    fail "Python 3.10 to 3.14 is needed, $base_python is $version. Choose another with BASE_PYTHON=python3.12"
"$base_python" -c 'import venv, ensurepip' 2> /dev/null ||
    fail "$base_python has no venv module. On Debian or Ubuntu: apt install python$version-venv"
"$base_python" -c 'import os, sys, sysconfig; p = sysconfig.get_paths()["include"]; sys.exit(not os.path.exists(os.path.join(p, "Python.h")))' ||
    fail "Python's C headers (Python.h) are missing. On Debian or Ubuntu: apt install python$version-dev"

options=()
if [ "$mode" = wheels ]; then
    [ "$(uname -m)" = x86_64 ] ||
        fail "rclpy's wheels exist for x86-64 only, this is $(uname -m): install ROS 2 (Humble or later), source it, and try again"
else
    "$base_python" -c 'import rclpy' 2> /dev/null ||
        fail "ROS ($mode) is sourced, but $base_python cannot import its rclpy. Set BASE_PYTHON to the distribution's Python"
    options+=(--system-site-packages)
fi

echo "creating $venv (Python $version, ROS: $mode)"
rm -rf "$venv"
"$base_python" -m venv "${options[@]}" "$venv"
mkdir -p "$venv/stamps"
echo "$mode" > "$venv/ros_mode"
