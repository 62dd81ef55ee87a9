#!/usr/bin/env bash
# Which ROS this shell offers: prints "distro:<name>" when a ROS 2 distribution is sourced, else "wheels".
#   ros_mode.sh                print it
#   ros_mode.sh --check VENV   fail when VENV was made for another one
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

mode=wheels
if [ -n "${ROS_DISTRO:-}" ]; then
    mode="distro:$ROS_DISTRO"
else
    # A sourced workspace without ROS_DISTRO still counts, but our own .venv and install/ are no distribution.
    IFS=: read -ra prefixes <<< "${AMENT_PREFIX_PATH:-}"
    for prefix in "${prefixes[@]}"; do
        [ -n "$prefix" ] || continue
        case "$(readlink -m -- "$prefix")" in
            "$root"/*) ;;
            *) mode="distro:unnamed" ;;
        esac
    done
fi

if [ "${1:-}" != --check ]; then
    echo "$mode"
    exit 0
fi

made_for=$(cat "$2/ros_mode" 2>/dev/null || echo "$mode")
if [ "$made_for" != "$mode" ]; then
    echo "error: $2 was set up for '$made_for', this shell offers '$mode'." >&2
    echo "       Use a shell like the one it was set up in, or start afresh with 'make clean'." >&2
    exit 1
fi

[ -f "$2/bin/activate" ] || exit 0
venv=$(sed -n "s/^ *\(export \)\{0,1\}VIRTUAL_ENV=[\"']\{0,1\}\(\/[^\"']*\).*/\2/p" "$2/bin/activate" | head -n 1 || true)
if [ -n "$venv" ] && [ ! "$venv" -ef "$2" ]; then
    echo "error: $2 was made for $venv, the folder has moved since: run 'make clean', then this again" >&2
    exit 1
fi
