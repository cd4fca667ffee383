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
attn_penalty_weight=3e-3
mlp_penalty_weight=0.3
head_distance_threshold=0.5
tolerance=1e-3
heads=28
target_sparsity=0.75

about "From nothing to a pruned translation model: at most 12 minutes on 2 cores.
The second run continues, or skips what is done, and prints the table again."
option out DIR runs/quickstart "where everything goes (a relative path: from the checkout)"
parse_options "$@"

steps=9
step=0
# step TEXT: says where we are and since when.
step() {
  step=$((step + 1))
  printf '\n[%d/%d] %s (%d min %02d s so far)\n' "$step" "$steps" "$1" \
    $((SECONDS / 60)) $((SECONDS % 60))
}

finetune() {  # LABEL, SCRIPT, then its options
  bash "$here/$2" --data "$out/corpus" --save-dir "$out/$1" \
    --pretrained "$out/pretrained/checkpoint_last.pt" --epochs "$finetune_epochs" \
    --lr "$finetune_lr" --warmup-updates 50 --max-tokens "$max_tokens" "${@:3}"
}

evaluate() {  # LABEL
  if grep -qsF "{\"label\": \"$1\"," "$out/results.jsonl"; then
    echo "$1: already evaluated"
    return
  fi
  bash "$here/evaluate.sh" --data "$out/corpus" --label "$1" --results "$out/results.jsonl" \
    --checkpoint "$out/$1/checkpoint_last.pt" --tolerance "$tolerance"
}

# claim_out: makes $out a quickstart's of these settings, or stops.
claim_out() {
  local name settings=""
  for name in arch train_pairs max_tokens pretrain_epochs pretrain_lr finetune_epochs finetune_lr \
    attn_penalty_weight mlp_penalty_weight head_distance_threshold tolerance heads target_sparsity; do
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
source "$here/environment.sh"

step "Corpus: a German-English grammar makes $train_pairs pairs: 15 seconds"
bash "$here/prepare.sh" --corpus toy --train-pairs "$train_pairs" --out "$out/corpus"

step "Pretraining a dense model, $pretrain_epochs epochs: about 3 minutes"
bash "$here/pretrain.sh" --data "$out/corpus" --save-dir "$out/pretrained" --arch "$arch" \
  --epochs "$pretrain_epochs" --lr "$pretrain_lr" --warmup-updates 200 --dropout 0 \
  --max-tokens "$max_tokens"

step "Fine-tuning it as it is, for comparison, $finetune_epochs epochs: about 90 seconds"
finetune dense finetune_neuroprune.sh --plain

step "Fine-tuning it with NeuroPrune, $finetune_epochs epochs: about 90 seconds"
finetune neuroprune finetune_neuroprune.sh --attn-penalty-weight "$attn_penalty_weight" \
  --mlp-penalty-weight "$mlp_penalty_weight" --head-distance-threshold "$head_distance_threshold"

step "Fine-tuning it to named targets, $heads heads and $target_sparsity zeros: about 90 seconds"
finetune target finetune_neuroprune.sh --target-heads "$heads" --target-sparsity "$target_sparsity"

step "Fine-tuning it with DSP, which keeps $heads heads and all other weights: about 90 seconds"
finetune dsp finetune_baseline.sh --method dsp --heads-to-keep "$heads" --cooldown-updates 150 \
  --score-clip-ratio 10

step "Translating the test set with all four: half a minute"
for label in dense neuroprune target dsp; do evaluate "$label"; done

step "Result"
echo "Weights below $tolerance count as zero and are zero in the translating model."
"$PYTHON" "$here/report.py" --results "$out/results.jsonl" --picture "$out/overview"
