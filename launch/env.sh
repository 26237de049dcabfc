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

# A virtual environment with the package in it.
# setup EXTRAS installs once; the stamp holds what was installed.
setup() {
  cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
  local extras=$1 stamp want
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
}
