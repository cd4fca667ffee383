#!/usr/bin/env bash
# The whole job once, on a generated corpus: environment, corpus, pretraining, NeuroPrune,
# translation, table, picture. What is done already is skipped.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/options.sh"

# Sized for 12 minutes on 2 cores, installation included. After changing one of these, name
# another --out: a folder keeps the results of one setting (settings.txt there).
arch=transformer_18x6_tiny
train_pairs=10000
max_tokens=2048
pretrain_epochs=6
pretrain_lr=4e-3
finetune_epochs=3
finetune_lr=2e-3
tolerance=1e-3
# Settings of each method, as neuroprune-frontier's --grid.
neuroprune="attn-penalty-weight=1e-3,3e-3;mlp-penalty-weight=0.1;head-distance-threshold=0.5"
target="target-heads=28;target-sparsity=0.75"
dsp="heads-to-keep=28,54;cooldown-updates=150;score-clip-ratio=10"

about "From nothing to a pruned translation model: at most 12 minutes on 2 cores.
The second run continues, or skips what is done, and prints the table again."
option out DIR runs/quickstart "where everything goes (a relative path: from the checkout)"
parse_options "$@"

steps=8
step=0
# step TEXT: says where we are and since when.
step() {
  step=$((step + 1))
  printf '\n[%d/%d] %s (%d min %02d s so far)\n' "$step" "$steps" "$1" \
    $((SECONDS / 60)) $((SECONDS % 60))
}

# What all fine-tunings have in common.
finetuning=(--lr "$finetune_lr" --warmup-updates 50 --max-tokens "$max_tokens")

# frontier METHOD GRID JOBS: fine-tunes and evaluates every setting, so many at a time.
frontier() {
  "$PYTHON" -m neuroprune_experiments.frontier run --method "$1" --grid "$2" --jobs "$3" \
    --data "$out/corpus" --pretrained "$out/pretrained/checkpoint_last.pt" --out "$out/$1" \
    --epochs "$finetune_epochs" --tolerance "$tolerance" -- "${finetuning[@]}"
}

# claim_out: makes $out a quickstart's of these settings, or stops.
claim_out() {
  local name settings=""
  for name in arch train_pairs max_tokens pretrain_epochs pretrain_lr finetune_epochs finetune_lr \
    tolerance neuroprune target dsp; do
    settings+="$name=${!name} "
  done
  mkdir -p "$out" 2>/dev/null || die "--out $out cannot be made; name another folder"
  if [ -n "$(ls -A "$out")" ] && [ "$(cat "$out/settings.txt" 2>/dev/null)" != "$settings" ]; then
    die "--out $out holds something else, or a quickstart of other settings; name a new folder"
  fi
  put "$out/settings.txt" "$settings" "--out $out"
}

cd "$here/.."
claim_out
step "Environment: 2 to 5 minutes the first time"
also_needed="optuna matplotlib"
source "$here/environment.sh"

step "Corpus: a German-English grammar makes $train_pairs pairs: 15 seconds"
bash "$here/prepare.sh" --corpus toy --train-pairs "$train_pairs" --out "$out/corpus"

step "Pretraining a dense model, $pretrain_epochs epochs: about 2 minutes"
bash "$here/pretrain.sh" --data "$out/corpus" --save-dir "$out/pretrained" --arch "$arch" \
  --epochs "$pretrain_epochs" --lr "$pretrain_lr" --warmup-updates 200 --dropout 0 \
  --max-tokens "$max_tokens"

step "Fine-tuning it as it is, for comparison, $finetune_epochs epochs: about a minute"
bash "$here/finetune_neuroprune.sh" --plain --data "$out/corpus" --save-dir "$out/dense" \
  --pretrained "$out/pretrained/checkpoint_last.pt" --epochs "$finetune_epochs" "${finetuning[@]}"
if [ ! -e "$out/dense/results.jsonl" ]; then
  bash "$here/evaluate.sh" --data "$out/corpus" --label dense --results "$out/dense/results.jsonl" \
    --checkpoint "$out/dense/checkpoint_last.pt" --tolerance "$tolerance"
fi

step "NeuroPrune, two settings at a time: about 2 minutes"
frontier neuroprune "$neuroprune" 2

step "Named targets, a quarter of the heads and of the weights: about a minute"
frontier neuroprune-target "$target" 1

step "DSP, which keeps a number of heads and all other weights, two settings: about 2 minutes"
frontier dsp "$dsp" 2

step "Result"
echo "Weights below $tolerance count as zero and are zero in the translating model."
results=("$out"/{neuroprune,neuroprune-target,dsp}/results.jsonl)
(run_program "$here/report.py" --results "$out/dense/results.jsonl" "${results[@]}" \
  --picture "$out/overview")
"$PYTHON" -m neuroprune_experiments.frontier plot "${results[@]}" --out "$out/frontier" --overwrite
