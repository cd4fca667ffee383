# shellcheck shell=bash
# Sourced by the recipes: reads the options that they share, finds the environment, and has
# fairseq_train, fairseq-train that can be interrupted, repeated and trusted.
#
# --data, --pretrained, --save-dir, --epochs and --arch become variables; what else was given
# stays in "$@" and is fairseq-train's to check.
#
# A save-dir belongs to one command, kept in command.txt. The same command again resumes from
# checkpoint_last.pt, or is skipped when finished.json is there; another command is refused.

data="" pretrained="" save_dir="" rest=()
while [ $# -gt 0 ]; do
  name=${1%%=*}
  case $name in
    --help | -h)
      sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
      echo "Every FLAG, as --lr, --dropout or --seed, is passed on to fairseq-train after the values"
      echo "that stand in this script, so yours counts. The same command again goes on where it stopped."
      exit
      ;;
    --data | --pretrained | --save-dir | --epochs | --arch)
      [ "$name" != "$1" ] || set -- "$1=${2-}" "${@:3}"
      case ${1#*=} in
        "" | --*) echo "$(basename "$0"): error: $name needs a value" >&2; exit 2 ;;
      esac
      name=${name#--}
      printf -v "${name//-/_}" '%s' "${1#*=}"
      ;;
    *) rest+=("$1") ;;
  esac
  shift
done
set -- ${rest[@]+"${rest[@]}"} # of the recipe, too
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
[ -n "$data" ] || die "--data is missing: a corpus that scripts/prepare.sh made"
compgen -G "$data/dict*.txt" >/dev/null ||
  die "--data $data holds no prepared corpus (dict*.txt); scripts/prepare.sh makes one"
[ -n "$save_dir" ] || die "--save-dir is missing: where checkpoints go"
case $epochs in
  *[!0-9]* | 0*) die "--epochs must be a whole number above 0, not '$epochs': 0 would never end" ;;
esac

# take_model_over: sets $model to the flags of the pretrained checkpoint's model.
take_model_over() {
  local word
  model=()
  case $pretrained in -*) pretrained=./$pretrained ;; esac # no flag
  [ -n "$pretrained" ] || die "--pretrained is missing: the checkpoint to start from"
  while IFS= read -r -d '' word; do
    model+=("$word")
  done < <("$PYTHON" "$ROOT/scripts/model_flags.py" --checkpoint "$pretrained" ${arch:+--arch "$arch"})
  [ "${#model[@]}" -gt 0 ] || exit 2 # model_flags.py has said why
}

# put FILE TEXT: writes a file of $save_dir under a temporary name, then renames it.
put() {
  { printf '%s\n' "$2" >"$1.new" && mv "$1.new" "$1"; } 2>/dev/null || {
    rm -f "$1.new"
    die "--save-dir $save_dir cannot be written to; make room there or name another folder"
  }
}

# claim_save_dir COMMAND: makes $save_dir this command's, or stops.
claim_save_dir() {
  mkdir -p "$save_dir" 2>/dev/null || die "--save-dir $save_dir cannot be made; name another folder"
  { exec 9>"$save_dir/.lock"; } 2>/dev/null ||
    die "--save-dir $save_dir cannot be written to; name another folder"
  if command -v flock >/dev/null && ! flock -n 9; then
    die "--save-dir $save_dir: another training is running there; wait for it or name a new folder"
  fi
  if compgen -G "$save_dir/checkpoint*.pt" >/dev/null || [ -e "$save_dir/finished.json" ]; then
    [ "$(cat "$save_dir/command.txt" 2>/dev/null)" = "$1" ] ||
      die "--save-dir $save_dir holds another command's results (see command.txt there);" \
        "name a new folder, or remove that one"
  fi
  put "$save_dir/command.txt" "$1"
}

# run_fairseq ARGUMENT...: shows progress and validation of what it adds to train.log; sets $why
# to the last line of what went wrong. stderr goes into the log when all is over, and until then
# into no file: what it says may be that the disk is full, of which tee complains, too.
#
# NEUROPRUNE_LAUNCH, words between spaces, starts NEUROPRUNE_WORKERS workers in place of one
# interpreter (see train.sbatch). Neither is part of the command that is kept: a run may go on
# with another number of workers.
run_fairseq() {
  local status=0 log=$save_dir/train.log errors launch=("$PYTHON")
  if [ -n "${NEUROPRUNE_LAUNCH:-}" ]; then
    read -r -a launch <<<"$NEUROPRUNE_LAUNCH"
    set -- "$@" --distributed-world-size "${NEUROPRUNE_WORKERS:?is how many are launched}"
  fi
  {
    errors=$({ "${launch[@]}" -m fairseq_cli.train "$@" | tee -a "$log" | { grep --line-buffered -E \
      '\| (train|train_inner|valid) \||\| epoch [0-9]+ \||done training' || true; }; } 2>&1 >&3)
  } 3>&1 || status=$?
  { printf '%s\n' "$errors" >>"$log"; } 2>/dev/null || true
  why=$(grep . <<<"$errors" | grep -v '^tee: ' | tail -n 1 || true)
  return "$status"
}

note_seconds() {
  { echo "$SECONDS" >>"$save_dir/seconds.txt"; } 2>/dev/null || true
}

# fairseq_train DATA ARGUMENT...: the whole of it.
fairseq_train() {
  local status=0 why="" times
  claim_save_dir "fairseq-train $(printf '%q' "$1") --user-dir \"\$(neuroprune-user-dir)\"$(
    printf ' %q' "${@:2}")"
  if [ -e "$save_dir/finished.json" ]; then
    echo "$save_dir: already trained with this command"
    return
  fi
  SECONDS=0
  trap note_seconds EXIT # an interrupted session counts, too
  run_fairseq "$1" --user-dir "$ROOT/neuroprune_fairseq" "${@:2}" || status=$?
  trap - EXIT
  note_seconds
  [ "$status" = 0 ] ||
    die "fairseq-train failed (exit status $status)${why:+: $why}; its log is $save_dir/train.log"
  times=$(awk '{ all += $1 } END { printf "{\"train_seconds\": %d, \"sessions\": %d}", all, NR }' \
    "$save_dir/seconds.txt" 2>/dev/null) || die "$save_dir/seconds.txt cannot be read"
  put "$save_dir/finished.json" "$times"
}
