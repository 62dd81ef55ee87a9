# Source me (bash): the environment in which the node, the demo and the tests run.
#   source scripts/env.sh
# Activates .venv, makes the ROS wheels known where no distribution is sourced, and sources install/.
_kdc_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ ! -f "$_kdc_root/.venv/bin/activate" ]; then
    echo "error: $_kdc_root/.venv does not exist yet: run 'make setup'" >&2
    unset _kdc_root
    return 1
fi
# Neither activate nor colcon's files are written for `set -u`.
case $- in *u*) _kdc_restore_u=1 ;; *) _kdc_restore_u=0 ;; esac
set +u
source "$_kdc_root/.venv/bin/activate"
if [ ! "$VIRTUAL_ENV" -ef "$_kdc_root/.venv" ]; then
    echo "error: .venv was made for $VIRTUAL_ENV, the folder has moved since: run 'make clean', then 'make setup'" >&2
    if [ "$_kdc_restore_u" = 1 ]; then set -u; fi
    unset _kdc_root _kdc_restore_u
    return 1
fi
if [ "$(cat "$_kdc_root/.venv/ros_mode")" = wheels ]; then
    export AMENT_PREFIX_PATH="$VIRTUAL_ENV"
    export CMAKE_PREFIX_PATH="$VIRTUAL_ENV"
fi
if [ -z "${KDC_ENV_WITHOUT_INSTALL:-}" ] && [ -f "$_kdc_root/install/local_setup.bash" ]; then
    # colcon's file does not quote its interpreter's path: name one that is less likely to hold spaces.
    _kdc_python=$(readlink -f "$VIRTUAL_ENV/bin/python")
    COLCON_PYTHON_EXECUTABLE="$_kdc_python" source "$_kdc_root/install/local_setup.bash"
    unset _kdc_python
fi
# What only the tests need (see tests/interfaces).
if [ -z "${KDC_ENV_WITHOUT_INSTALL:-}" ] && [ -f "$_kdc_root/.venv/test_interfaces/install/local_setup.bash" ]; then
    _kdc_python=$(readlink -f "$VIRTUAL_ENV/bin/python")
    COLCON_PYTHON_EXECUTABLE="$_kdc_python" source "$_kdc_root/.venv/test_interfaces/install/local_setup.bash"
    unset _kdc_python
fi
if [ "$_kdc_restore_u" = 1 ]; then set -u; fi
unset _kdc_root _kdc_restore_u
