#!/usr/bin/env bash
# Installs with the test extras if need be, and runs the tests.
#   launch/test.sh [--fast | --all] [pytest arguments]
#   PYTHON=python3.13 launch/test.sh …      on another Python than python3
# A quarter of an hour on two cores. With --fast only those that are quick, in
# two minutes; with --all also those that take long and have a shorter twin.
set -euo pipefail
# shellcheck source=launch/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
answer_help "${BASH_SOURCE[0]}" "$@"
setup dev
.venv/bin/ruff check .
# Two workers: most of the time goes into compiling, on one core each.
# As the files come: the longest have few tests, and would all come last.
arguments=(-n 2 --dist loadfile --no-loadscope-reorder)
lane='not long'
for argument in "$@"; do
  case $argument in
    --fast) lane='not slow and not long' ;;
    --all) lane='' ;;
    *) arguments+=("$argument") ;;
  esac
done
exec .venv/bin/python -m pytest -m "$lane" "${arguments[@]}"
