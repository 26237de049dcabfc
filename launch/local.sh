#!/usr/bin/env bash
# Installs into .venv if need be, and runs a job on this machine.
#   launch/local.sh [CONFIG] [flags]     CONFIG: configs/digits.py if not given
#   EXTRAS=cuda13 launch/local.sh …      with a GPU (or cuda12, tpu)
set -euo pipefail
here=$PWD
# shellcheck source=launch/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
answer_help "${BASH_SOURCE[0]}" "$@"
setup "${EXTRAS:-}"
root=$PWD
config=configs/digits.py
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
  config=$1
  shift
fi
# A config beside the caller wins over one of the project.
cd "$here"
[ -e "${config%%:*}" ] || cd "$root"
exec "$root/.venv/bin/python" -m dasm_jax.main --config="$config" "$@"
