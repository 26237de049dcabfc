#!/usr/bin/env bash
# Tries the package where the tests do not run at length: with the lowest
# versions that pyproject.toml allows, and on the newest Python that is here.
#   launch/versions.sh [lowest] [newest] [pytest arguments]    both if not said
# A wheel is built, installed, and distils digits; the losses are compared with
# what the published programs gave. Environments are thrown away afterwards.
set -euo pipefail
# shellcheck source=launch/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
answer_help "${BASH_SOURCE[0]}" "$@"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
lanes=()
while [ "${1:-}" = lowest ] || [ "${1:-}" = newest ]; do
  lanes+=("$1")
  shift
done
[ "${#lanes[@]}" -gt 0 ] || lanes=(lowest newest)

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/uv"
"$tmp/uv/bin/python" -m pip install --quiet --disable-pip-version-check uv
uv=$tmp/uv/bin/uv

try() {  # LANE RESOLUTION, in the environment of the lane
  local python=$tmp/$1/bin/python
  "$uv" pip install --quiet --python "$python" --resolution "$2" \
    --requirement pyproject.toml
  # What builds the wheel, and runs the tests.
  "$uv" pip install --quiet --python "$python" pip 'setuptools>=77' \
    pytest pytest-xdist
  echo "$1: Python $(python_version "$python"), JAX $("$python" -c \
    'import jax; print(jax.__version__)')"
  # Old packages may call what newer ones deprecate.
  "$python" -m pytest -n 2 --dist loadfile -W ignore::DeprecationWarning \
    "${arguments[@]}"
}

# Of the published programs' numbers those that take no long compiling.
golden='losses_soft_labels or dc_match_loss or idc_dist or selection_herding'
arguments=(tests/test_installed.py tests/test_losses.py tests/golden
  -k "test_installed or test_losses or $golden" "$@")
for lane in "${lanes[@]}"; do
  case $lane in
    lowest)
      "$uv" venv --quiet --python "${PYTHON:-python3}" "$tmp/lowest"
      try lowest lowest-direct
      ;;
    newest)
      # Downloaded where there is none, and that is possible.
      if "$uv" venv --quiet --python 3.13 "$tmp/newest" 2> /dev/null; then
        try newest highest
      else
        echo 'warning: no Python 3.13 here, nor to be had: not tried on it' >&2
      fi
      ;;
  esac
done
