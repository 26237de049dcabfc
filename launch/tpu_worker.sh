#!/usr/bin/env bash
# What tpu_vm.sh calls on every worker, in the copied source.
#   launch/tpu_worker.sh setup [gs://…]    an environment with the extra tpu;
#                                          data, to where TFDS looks for them
#   launch/tpu_worker.sh start FLAGS…      the job, in the background
#   launch/tpu_worker.sh again FLAGS…      the same, where it has ended
#   launch/tpu_worker.sh status            status=running, or what it ended with
set -euo pipefail
# shellcheck source=launch/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

cd "$(dirname "${BASH_SOURCE[0]}")/.."
action=$1
shift
case $action in
  setup)
    # The one that the tests run on: that of Ubuntu 22.04 is too old, that of
    # later ones brings another JAX, and comes without venv.
    if ! python3 -c \
      'import ensurepip, sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
      PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
      python3 -m uv python install --quiet 3.11
      PYTHON=$(python3 -m uv python find 3.11)
    fi
    setup tpu
    [ $# -eq 0 ] ||
      gcloud storage rsync --recursive "$1" "$HOME/tensorflow_datasets"
    ;;
  start | again)
    if [ "$action" = again ] && [ -e run.status ]; then
      rm -f run.pid run.status
    fi
    [ ! -e run.pid ] || exit 0
    # A broken connection must not end it.
    nohup setsid bash launch/tpu_worker.sh run "$@" \
      >> run.log 2>&1 < /dev/null &
    echo $! > run.pid
    ;;
  run)
    trap : TERM  # the program saves; this shell stays to note its status
    code=0
    JAX_PLATFORMS=${JAX_PLATFORMS:-tpu,cpu} \
      .venv/bin/python -m dasm_jax.main "$@" || code=$?
    echo "$code" > run.part
    mv run.part run.status
    ;;
  status)
    if [ -e run.status ]; then
      echo "status=$(cat run.status)"
    elif [ ! -e run.pid ]; then
      exit 1  # never started
    elif kill -0 "$(cat run.pid)" 2> /dev/null; then
      echo status=running
    else
      echo status=137  # killed together with its shell
    fi
    ;;
esac
