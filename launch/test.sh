#!/usr/bin/env bash
# Installs with the test extras if need be, and runs the tests.
#   launch/test.sh [pytest arguments]
set -euo pipefail
# shellcheck source=launch/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
setup dev
.venv/bin/ruff check .
exec .venv/bin/python -m pytest "$@"
