#!/usr/bin/env bash
# in_env.sh COMMAND...: run a command in the environment of env.sh.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
exec "$@"
