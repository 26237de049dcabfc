#!/usr/bin/env bash
# Installs with the test extras if need be, and runs the tests.
#   launch/test.sh [--fast] [pytest arguments]
#   PYTHON=python3.13 launch/test.sh …      on another Python than python3
# With --fast only those that are quick: two minutes on two cores, where all
# take a quarter of an hour.
set -euo pipefail
# shellcheck source=launch/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
answer_help "${BASH_SOURCE[0]}" "$@"
setup dev
.venv/bin/ruff check .
# Two workers: most of the time goes into compiling, on one core each.
# As the files come: the longest have few tests, and would all come last.
arguments=(-n 2 --dist loadfile --no-loadscope-reorder)
for argument in "$@"; do
  case $argument in
    --fast) arguments+=(-m 'not slow') ;;
    *) arguments+=("$argument") ;;
  esac
done
exec .venv/bin/python -m pytest "${arguments[@]}"
