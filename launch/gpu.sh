#!/usr/bin/env bash
# As local.sh, on the GPUs of this machine: without one it ends with an error.
#   launch/gpu.sh [CONFIG] [flags]
#   EXTRAS=cuda12 launch/gpu.sh …   for drivers from 525 to 579
#   RESTART=1 launch/gpu.sh …       goes on if the program was sent SIGTERM
set -euo pipefail
# shellcheck source=launch/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
answer_help "${BASH_SOURCE[0]}" "$@"
local=$(dirname "${BASH_SOURCE[0]}")/local.sh
export EXTRAS=${EXTRAS:-cuda13} JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu}
check_driver "$EXTRAS"
[ -n "${RESTART:-}" ] || exec "$local" "$@"

# A job of its own, so that a signal comes once, and through this shell.
set -m
stop='' child=''
trap 'stop=1; kill -TERM $child' TERM
trap 'stop=1; kill -INT $child' INT
while :; do
  "$local" "$@" < /dev/null &
  child=$!
  # A signal ends wait, not the program.
  while kill -0 "$child" 2> /dev/null; do wait "$child" || true; done
  code=0
  wait "$child" || code=$?
  if [ "$code" != 75 ] || [ -n "$stop" ]; then exit "$code"; fi
  echo 'the program was stopped, and had saved: going on'
done
