#!/usr/bin/env bash
# build_ros.sh VENV: build the ROS package with colcon into build/ and install/.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

echo "building the ROS package (about half a minute the first time)"
# shellcheck source=scripts/env.sh
KDC_ENV_WITHOUT_INSTALL=1 source scripts/env.sh
python=$(command -v python)
log=build/colcon.log
mkdir -p build
# Linked Python files: an edit is live without another build.
if ! colcon --log-base log build --symlink-install --base-paths . --packages-select kdc \
    --event-handlers console_direct+ desktop_notification- \
    --cmake-args -DPython3_EXECUTABLE="$python" -DPYTHON_EXECUTABLE="$python" -DBUILD_TESTING=OFF > "$log" 2>&1; then
    tail -n 60 "$log" >&2
    echo "error: the ROS package did not build; the whole log is in $log" >&2
    exit 1
fi
