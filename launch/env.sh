# shellcheck shell=bash
# Sourced by the other scripts.

# answer_help SCRIPT ARGUMENTS prints what SCRIPT says of itself if asked to.
answer_help() {
  case ${2:-} in -h | --help)
    sed -n '/^#!/d; /^#/!q; s/^# \{0,1\}//p' "$1"
    exit
    ;;
  esac
}

# check_driver EXTRAS warns of a driver that is too old for cuda13.
check_driver() {
  local driver
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader \
    2> /dev/null | head -n 1) || true
  if [ "$1" = cuda13 ] && [[ $driver =~ ^[0-9]+ ]] &&
    [ "${BASH_REMATCH[0]}" -lt 580 ]; then
    echo "warning: the driver is $driver, and cuda13 needs 580 or newer;" \
      'EXTRAS=cuda12 takes those from 525' >&2
  fi
}

python_version() {  # of a PYTHON
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'
}

# A virtual environment with the package in it.
# setup EXTRAS installs once; the stamp holds what was installed.
setup() {
  cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
  local extras=$1 stamp want
  # Of two jobs that begin at once one installs, and the other waits for it.
  # Where there is no flock, or a file system that knows none, they may meet.
  exec 9< .
  flock 9 2> /dev/null || true
  if [ -x .venv/bin/python ] && [ -n "${PYTHON:-}" ] &&
    [ "$(python_version .venv/bin/python)" != "$(python_version "$PYTHON")" ]
  then
    echo "error: .venv has Python $(python_version .venv/bin/python), and" \
      "PYTHON=$PYTHON is another; remove .venv to make it anew" >&2
    exit 2
  fi
  if [ ! -x .venv/bin/python ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
      echo 'error: Python 3.11 or newer is needed; set PYTHON=/path/to/it' >&2
      exit 2
    }
    "${PYTHON:-python3}" -m venv .venv || exit 1
  fi
  stamp=.venv/installed${extras:+-$extras}
  want=$(cksum < pyproject.toml)
  if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
    echo "installing into .venv (once) …"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
      --editable ".${extras:+[$extras]}" || exit 1
    printf '%s\n' "$want" > "$stamp"
  fi
  exec 9<&-
}
