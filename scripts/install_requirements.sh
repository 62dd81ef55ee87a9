#!/usr/bin/env bash
# install_requirements.sh [--no-deps] VENV FILE...: install requirement files into the environment.
# Without a distribution: exactly the pinned versions. In one: only what it does not bring itself, in versions that
# go with its numpy (its message packages are compiled against it).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
options=()
if [ "$1" = --no-deps ]; then
    options=(--no-deps)
    shift
fi
venv=$1
shift
python="$venv/bin/python"
pip=("$python" -m pip install --quiet --disable-pip-version-check "${options[@]}")

if [ "$(cat "$venv/ros_mode")" = wheels ]; then
    files=()
    for file in "$@"; do files+=(-r "$file"); done
    # The pins that are installed already go along, so that nothing that follows can move them.
    "${pip[@]}" -c "$root/requirements/runtime.txt" -c "$root/requirements/ros-wheels.txt" "${files[@]}"
else
    numpy=$("$python" -c 'import numpy; print(numpy.__version__)' 2> /dev/null) || numpy=""
    missing=$(mktemp)
    constraints=$(mktemp)
    trap 'rm -f "$missing" "$constraints"' EXIT
    # What is compiled against a numpy 1 works with all later ones before 2: Humble's 1.21.5 is too old for any ONNX
    # Runtime that reads our file.
    case "$numpy" in
        "") ;;
        1.*) echo "numpy>=$numpy,<2" > "$constraints" ;;
        *) echo "numpy==$numpy" > "$constraints" ;;
    esac
    echo "onnxruntime>=1.18" >> "$constraints"
    echo "setuptools<80" >> "$constraints"  # colcon's own limit
    "$python" "$root/scripts/missing_requirements.py" "$@" > "$missing"
    if [ -s "$missing" ]; then
        echo "the distribution lacks: $(tr '\n' ' ' < "$missing")"
        "${pip[@]}" -c "$constraints" -r "$missing"
    fi
fi
