#!/usr/bin/env bash
# Runs a job on a Cloud TPU that may be taken away: what it does is in usage().
# Meant for a laptop, too: nothing here needs more than bash 3.2 and gcloud.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/tpu_vm.sh --bucket=gs://BUCKET --zone=ZONE [options] \
         CONFIG [flags of dasm_jax.main]

Creates a TPU, copies this source to it, starts the job on all its workers, and
watches. A TPU that was taken away is created again, and the job goes on from
its last checkpoint. The TPU is deleted when the job has ended. Ctrl-C only
stops watching; the same command watches again.

  --bucket=gs://BUCKET  results go to BUCKET/runs/NAME; near the zone   (BUCKET)
  --zone=ZONE           such as us-east5-b                            (TPU_ZONE)
  --name=NAME           of the TPU and the run; dasm                  (TPU_NAME)
  --type=TYPE           accelerator type; v6e-4                       (TPU_TYPE)
  --runtime=VERSION     software version; the one for the type     (TPU_RUNTIME)
  --on-demand           costs more, and is not taken away
  --reserved            from your reservation
  --network=…, --subnetwork=…, --service-account=…, --labels=…, --tags=…
                        as gcloud compute tpus queued-resources create has them
  --data=gs://…         prepared data sets, for every worker           (TPU_DATA)
  --env=NAME=VALUE      for the job; as often as needed
  --poll=SECONDS        between two looks; 60                         (TPU_POLL)
  --retries=N           on the same TPU of a job that says that it may work again
                        (75), before another TPU is asked for; 3
  --failures=N          give up at the Nth that is no preemption; 3
  --aborts=N            and at the Nth end by a signal (134, 137, …), as JAX
                        ends those whose neighbour is lost; 20
END
}

wrong() {
  printf 'error: %s; launch/tpu_vm.sh --help lists the options\n' "$1" >&2
  exit 2
}

bucket=${BUCKET:-} zone=${TPU_ZONE:-} name=${TPU_NAME:-dasm}
type=${TPU_TYPE:-v6e-4} runtime=${TPU_RUNTIME:-} poll=${TPU_POLL:-60}
data=${TPU_DATA:-} spot=--spot allowed=3 bearable=20 retries=3 environment=env
more=() key=$HOME/.ssh/google_compute_engine
while [ $# -gt 0 ]; do
  case $1 in
    --bucket=*) bucket=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --name=*) name=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --runtime=*) runtime=${1#*=} ;;
    --on-demand) spot= ;;
    --reserved) spot=--reserved ;;
    --network=?* | --subnetwork=?* | --service-account=?* | --labels=?* | \
      --tags=?*) more+=("$1") ;;
    --data=*) data=${1#*=} ;;
    --env=?*=*) environment="$environment $(printf '%q' "${1#*=}")" ;;
    --poll=*) poll=${1#*=} ;;
    --retries=*) retries=${1#*=} ;;
    --failures=*) allowed=${1#*=} ;;
    --aborts=*) bearable=${1#*=} ;;
    -h | --help)
      usage
      exit
      ;;
    -*) wrong "unknown option $1 before CONFIG" ;;
    *) break ;;
  esac
  shift
done
[ $# -gt 0 ] || wrong 'CONFIG is missing, such as configs/digits.py'
config=$1
shift
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
like() {  # VALUE PATTERN OPTION EXAMPLE: which needs such a value
  [[ $1 =~ ^$2$ ]] || wrong "--$3='$1' should look like $4"
}
like "$bucket" 'gs://[^ ]+' bucket gs://my-bucket
like "${data:-$bucket}" 'gs://[^ ]+' data gs://my-bucket/tfds
like "$zone" '[a-z0-9-]+' zone us-east5-b
like "$name" '[a-z][a-z0-9-]*' name lower-case-1
like "$poll" '[0-9.]+' poll 60
like "$retries" '[0-9]+' retries 3
like "$allowed" '[1-9][0-9]*' failures 3
like "$bearable" '[1-9][0-9]*' aborts 20
[ -e "$root/${config%%:*}" ] || [ -e "$root/configs/${config%%:*}.py" ] ||
  wrong "no config '${config%%:*}' in $root, which is what is copied"
command -v gcloud > /dev/null || {
  echo 'error: gcloud is needed: https://cloud.google.com/sdk/docs/install' >&2
  exit 2
}
if [ -z "$runtime" ]; then
  case $type in
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v[234]-*) runtime=tpu-ubuntu2204-base ;;
    *) wrong "--type=$type: the Cloud TPU API serves v2 to v6e, such as v6e-4; \
see launch/gke.md for others, or give --runtime" ;;
  esac
fi

several() {  # whether the TPU has more workers than one
  [[ ${type##*-} =~ ^[0-9]+$ ]] && [ "${type##*-}" -gt 8 ]
}

in_agent() {  # whether ssh's agent has the key with which gcloud reaches several
  local print
  print=$(ssh-keygen -lf "$key" 2> /dev/null | cut -d ' ' -f 2)
  [ -n "$print" ] && ssh-add -l 2> /dev/null | grep -F "$print" > /dev/null
}

unlock="a TPU of several workers is reached by a key in ssh's agent; type: \
eval \"\$(ssh-agent)\"; ssh-add $key"
[ -e "$key" ] || unlock="$unlock (made by: ssh-keygen -t rsa -f $key)"
if several && ! in_agent; then
  printf 'error: %s\n' "$unlock" >&2
  exit 2
fi

# A worker's shell reads this: quoted, all arrives as given.
flags=$(printf '%q ' "--config=$config" "--workdir=${bucket%/}/runs/$name" "$@")
start="$environment bash launch/tpu_worker.sh start $flags"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*"; }

tpu() { gcloud compute tpus "$@" --zone="$zone" --quiet < /dev/null; }

on() {  # WORKER COMMAND: what it prints there
  tpu tpu-vm ssh "$name" --worker="$1" --command="cd ~/dasm_jax && $2"
}

remove() { tpu queued-resources delete "$name" --force; }

finish() {  # STATUS TEXT
  say "$2"
  trap - INT TERM
  for _ in 1 2 3; do
    if remove; then exit "$1"; fi
    sleep "$poll"
  done
  echo "warning: $name could not be deleted, and is billed until it is:" \
    "gcloud compute tpus queued-resources delete $name --zone=$zone --force" >&2
  exit "$1"
}

leave() {  # [STATUS]
  say "no longer watching; $name goes on, and is billed. To delete it:" \
    "gcloud compute tpus queued-resources delete $name --zone=$zone --force"
  exit "${1:-130}"
}
trap leave INT TERM

failures=0
failed() {  # WHAT STATUS: that was no preemption
  failures=$((failures + 1))
  say "$1 (failure $failures of at most $allowed)"
  [ "$failures" -lt "$allowed" ] || finish "$2" 'giving up'
}

aborts=0
aborted() {  # STATUS: of a signal; perhaps a neighbour was lost
  aborts=$((aborts + 1))
  say "the job was ended by a signal, status $1 (abort $aborts of at most" \
    "$bearable)"
  [ "$aborts" -lt "$bearable" ] || finish "$1" 'giving up'
}

state() {
  local found
  if found=$(tpu queued-resources describe "$name" \
    --format='value(state.state)' 2> "$tmp/error"); then
    echo "${found:-UNKNOWN}"
  elif grep -qi 'not.found' "$tmp/error"; then
    echo NONE
  else
    echo UNKNOWN  # the network, perhaps: nothing to delete a TPU for
  fi
}

create() {
  say "creating $name: $type in $zone${spot:+, ${spot#--}}"
  # An empty array is unset in bash 3.2.
  tpu queued-resources create "$name" --node-id="$name" \
    --accelerator-type="$type" --runtime-version="$runtime" ${spot:+"$spot"} \
    ${more[@]+"${more[@]}"}
}

begin() {  # on a new TPU, or on one where the job runs already
  seen=0 lost=0 waited='' retried=0 stopped=''
  if on all 'bash launch/tpu_worker.sh status' > /dev/null 2>&1; then
    say 'it runs already: watching'
    return
  fi
  if several && ! in_agent; then
    # Another TPU would be no help, and this one may have been waited for.
    printf 'error: %s; then call this again\n' "$unlock" >&2
    leave 2
  fi
  say 'installing on every worker'
  COPYFILE_DISABLE=1 tar -czf "$tmp/dasm_jax.tar.gz" -C "$root" \
    --exclude=.git --exclude=.venv --exclude=./runs --exclude=__pycache__ . &&
    tpu tpu-vm scp "$tmp/dasm_jax.tar.gz" "$name:dasm_jax.tar.gz" \
      --worker=all &&
    tpu tpu-vm ssh "$name" --worker=all --command='mkdir -p dasm_jax &&
      tar -xzf dasm_jax.tar.gz -C dasm_jax' &&
    on all "bash launch/tpu_worker.sh setup $data" &&
    on all "$start" &&
    say 'started'
}

retry() {  # the job, where it has ended, on the same TPU
  [ "$retried" -lt "$retries" ] || return
  retried=$((retried + 1))
  say "trying again on the same TPU ($retried of at most $retries)"
  stopped='' waited=''
  on all "$environment bash launch/tpu_worker.sh again $flags"
}

verdict() {  # STATUSES: the one that counts
  local ends
  ends=$(sort -u <<< "$1" | sort -n)  # `running` counts as 0 there
  grep -m 1 -xE '2|130' <<< "$ends" && return
  # Others die of the one that failed; let them, and let them save.
  [ -z "$waited" ] && grep -x running <<< "$ends" && return
  # Not the signals, by which JAX ends the neighbours of one that failed, or
  # that was preempted.
  grep -m 1 -xE '[1-9]|[1-6][0-9]|7[0-46-9]|[89][0-9]|1[01][0-9]|12[0-8]' \
    <<< "$ends" || grep -m 1 -x 75 <<< "$ends" ||
    grep -m 1 -xE '[0-9]{3}' <<< "$ends" || grep -x running <<< "$ends" ||
    echo 0
}

look() {  # shows what is new in the log of worker 0; sets `status`
  local all
  all=$(on all 'bash launch/tpu_worker.sh status' 2> /dev/null |
    sed -n 's/^status=//p') || true
  if on 0 "tail -c +$((seen + 1)) run.log" > "$tmp/log" 2> /dev/null; then
    cat "$tmp/log"
    seen=$((seen + $(wc -c < "$tmp/log")))
  fi
  status=unreachable
  if [ -n "$all" ]; then
    status=$(verdict "$all")
    grep -qvxE '0|running' <<< "$all" && waited=yes
    lost=0
  elif [ "$lost" -ge 5 ]; then
    status=75  # gone, whatever its state says
  else
    lost=$((lost + 1))
  fi
}

again() {
  before='' started=''
  remove || true  # if it failed, the next look finds the TPU again
}

before='' started='' made='' known=''
while :; do
  now=$(state)
  [ "$now" = UNKNOWN ] || known=yes
  [ "$now" = "$before" ] || say "$name: $now"
  before=$now
  case $now in
    NONE)
      started=
      if create; then
        made=yes
      elif [ -z "$made" ]; then
        exit 1  # gcloud has said why
      else
        failed 'not created' 1
      fi
      ;;
    ACTIVE)
      if [ -z "$started" ]; then
        if begin; then started=yes; else failed 'not installed' 1; fi
      else
        look
        case $status in
          0) finish 0 'done' ;;
          2) finish 2 'the command was wrong' ;;
          130) finish 130 'interrupted' ;;
          75)
            # Preempted, unless the TPU is still there at the next look.
            if [ -z "$stopped" ] && [ "$retries" != 0 ]; then
              say 'the job was stopped, or may work again'
              stopped=yes
            elif ! retry; then
              say 'preempted'
              again
            fi
            ;;
          running | unreachable) ;;
          1[3-9][0-9])
            aborted "$status"
            again
            ;;
          *)
            failed "the job ended with status $status" "$status"
            again
            ;;
        esac
      fi
      ;;
    SUSPENDED) again ;;
    FAILED)
      failed 'no TPU' 1
      again
      ;;
    UNKNOWN)
      if [ -z "$known" ]; then
        cat "$tmp/error" >&2
        exit 1
      fi
      ;;
  esac
  sleep "$poll"
done
