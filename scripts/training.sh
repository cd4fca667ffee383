# shellcheck shell=bash
# Runs fairseq-train so that it can be interrupted, repeated and trusted. Sourced after
# options.sh and environment.sh.
#
# A save-dir belongs to one command, kept in command.txt. The same command again resumes from
# checkpoint_last.pt, or is skipped when finished.json is there; another command is refused.

# quoted ARGUMENT...: one line that can be pasted into a shell.
quoted() {
  local argument line=""
  for argument in "$@"; do
    if [[ $argument =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      line+=" $argument"
    else
      line+=" '${argument//\'/\'\\\'\'}'"
    fi
  done
  printf '%s' "${line# }"
}

# claim_save_dir COMMAND: makes $save_dir this command's, or stops.
claim_save_dir() {
  local kept=$save_dir/command.txt
  mkdir -p "$save_dir" 2>/dev/null || die "--save-dir $save_dir cannot be made; name another folder"
  { exec 9>"$save_dir/.lock"; } 2>/dev/null ||
    die "--save-dir $save_dir cannot be written to; name another folder"
  if command -v flock >/dev/null && ! flock -n 9; then
    die "--save-dir $save_dir: another training is running there; wait for it or name a new folder"
  fi
  if any_file "$save_dir" 'checkpoint*.pt' || [ -e "$save_dir/finished.json" ]; then
    [ "$(cat "$kept" 2>/dev/null)" = "$1" ] ||
      die "--save-dir $save_dir holds another command's results (see command.txt there);" \
        "name a new folder, or remove that one"
  fi
  put "$kept" "$1" "--save-dir $save_dir"
}

# Progress and validation lines of fairseq's log; the rest is in train.log only.
progress_lines() {
  grep --line-buffered -E '\| (train|train_inner|valid) \||\| epoch [0-9]+ \||done training' || true
}

# run_fairseq_train ARGUMENT...: sets $why to the last line of what went wrong. On a terminal
# fairseq draws its progress bar on stderr; else stderr goes into the log when all is over, and
# until then into no file, since what it says may be that the disk is full.
#
# NEUROPRUNE_LAUNCH, words between spaces, starts NEUROPRUNE_WORKERS workers in place of one
# interpreter (see train.sbatch). Neither is part of the command that is kept: a run may go on
# with another number of workers.
run_fairseq_train() {
  local status=0 log=$save_dir/train.log errors launch=("$PYTHON")
  if [ -n "${NEUROPRUNE_LAUNCH:-}" ]; then
    read -r -a launch <<<"$NEUROPRUNE_LAUNCH"
    set -- "$@" --distributed-world-size "${NEUROPRUNE_WORKERS:?is how many are launched}"
  fi
  why=""
  if [ -t 2 ]; then
    "${launch[@]}" -m fairseq_cli.train "$@" | tee -a "$log" | progress_lines
    return
  fi
  {
    errors=$({ "${launch[@]}" -m fairseq_cli.train "$@" | tee -a "$log" | progress_lines; } 2>&1 >&3)
  } 3>&1 || status=$?
  { printf '%s\n' "$errors" >>"$log"; } 2>/dev/null || true
  # On a full disk tee complains, too, before or after fairseq says why it ended.
  why=$(printf '%s\n' "$errors" | grep . | grep -v '^tee: ' | tail -n 1 || true)
  [ -n "$why" ] || why=$(printf '%s\n' "$errors" | grep . | tail -n 1 || true)
  return "$status"
}

# train DATA ARGUMENT...: the whole of it; $save_dir and $rest come from the options.
train() {
  local command times status=0
  command="fairseq-train $(quoted "$1") --user-dir \"\$(neuroprune-user-dir)\" $(quoted \
    "${@:2}" --save-dir "$save_dir" ${rest[@]+"${rest[@]}"})"
  claim_save_dir "$command"
  if [ -e "$save_dir/finished.json" ]; then
    echo "$save_dir: already trained with this command"
    return
  fi
  SECONDS=0
  # An interrupted session counts, too.
  trap note_seconds EXIT
  run_fairseq_train "$1" --user-dir "$ROOT/neuroprune_fairseq" "${@:2}" \
    --save-dir "$save_dir" ${rest[@]+"${rest[@]}"} || status=$?
  trap - EXIT
  note_seconds
  [ "$status" = 0 ] ||
    die "fairseq-train failed (exit status $status)${why:+: $why}; its log is $save_dir/train.log"
  times=$(awk '{ all += $1 } END { printf "{\"train_seconds\": %d, \"sessions\": %d}", all, NR }' \
    "$save_dir/seconds.txt" 2>/dev/null) || die "$save_dir/seconds.txt cannot be read"
  put "$save_dir/finished.json" "$times" "--save-dir $save_dir"
}

note_seconds() {
  { echo "$SECONDS" >>"$save_dir/seconds.txt"; } 2>/dev/null || true
}

# finetune TASK CRITERION ARGUMENT...: trains from $pretrained; the rest of what
# finetune_neuroprune.sh and finetune_baseline.sh share comes from their options.
finetune() {
  local word model=()
  case $pretrained in -*) pretrained=./$pretrained ;; esac # no flag
  [ -z "$dropout" ] || check_number dropout
  while IFS= read -r -d '' word; do
    model+=("$word")
  done < <(run_program "$here/model_flags.py" --checkpoint "$pretrained" ${arch:+--arch "$arch"})
  [ "${#model[@]}" -gt 0 ] || exit 2 # model_flags.py has said why
  [ -z "$dropout" ] || model+=(--dropout "$dropout")
  train "$data" \
    --task "$1" "${model[@]}" --finetune-from-model "$pretrained" \
    --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 0.0 --weight-decay 0.0001 \
    --lr "$lr" --lr-scheduler inverse_sqrt --warmup-updates "$warmup_updates" \
    --criterion "$2" --label-smoothing 0.1 "${@:3}" \
    --max-tokens "$max_tokens" --max-epoch "$epochs" --seed "$seed" \
    --no-epoch-checkpoints --log-interval 25
}
