#!/usr/bin/env bash
# build_test_interfaces.sh VENV: build the interface packages of tests/interfaces that this machine lacks, into
# VENV/test_interfaces, which env.sh sources.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
target=$(cd "$1" && pwd)/test_interfaces
rm -rf "$target"
mkdir -p "$target"
# shellcheck source=scripts/env.sh
source scripts/env.sh
python=$(command -v python)
missing=()
for package in tf2_msgs vision_msgs hri_msgs; do
    python -c "import $package.msg" 2> /dev/null || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi
echo "building interfaces for the tests: ${missing[*]} (about a minute)"
if ! colcon --log-base "$target/log" build --build-base "$target/build" --install-base "$target/install" --merge-install \
    --base-paths tests/interfaces/*/ --packages-select "${missing[@]}" --event-handlers console_direct+ desktop_notification- \
    --cmake-args -DPython3_EXECUTABLE="$python" -DPYTHON_EXECUTABLE="$python" -DBUILD_TESTING=OFF \
    > "$target/colcon.log" 2>&1; then
    tail -n 40 "$target/colcon.log" >&2
    echo "error: the tests' interfaces did not build; the whole log is in $target/colcon.log" >&2
    exit 1
fi
