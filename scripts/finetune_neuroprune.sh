#!/usr/bin/env bash
# Fine-tunes a pretrained Transformer with NeuroPrune: the paper's second phase.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/options.sh"

about "Fine-tune a pretrained Transformer with NeuroPrune, or plainly with --plain.
The defaults are for IWSLT14: the mild end of what the paper tried. Which penalty weights and
threshold fit depends on the width of the model and the number of updates.
The same command again goes on where it stopped.
In SAVE_DIR: checkpoint_last.pt, checkpoint_best.pt, neuroprune.jsonl (one line per epoch),
train.log, command.txt, finished.json."
required data DIR "prepared corpus, made by scripts/prepare.sh"
required pretrained CHECKPOINT "where to start from; its architecture is taken over"
required save-dir SAVE_DIR "where checkpoints go"
flag plain "no penalty and no pruning: ordinary fine-tuning, for comparison"
option attn-penalty-weight ALPHA "" "alpha, weight of R_attn (default: 0.005; the paper tried 0.005 to 0.5)"
option mlp-penalty-weight BETA "" "beta, weight of R_mlp (default: 0.05; the paper tried 0.05 and 0.1)"
option head-distance-threshold THETA "" "theta, heads that differ by at most this are similar; 'none' removes no head (default: 0.2; the paper tried 0.1 to 0.4)"
option target-heads K "" "end with exactly K heads; the penalties and theta default to 0 and none then"
option target-sparsity S "" "end with this share of zeros among the q, k, v, fc1, fc2 weights (or --target-attn-sparsity, --target-mlp-sparsity)"
option head-merge WAY out_proj "what a removed head leaves to its dominator: out_proj, fc1 or none"
option near-zero EPSILON 1e-4 "epsilon, a weight below it counts as missing in R_mlp"
option penalty-solver NAME subgradient "how the penalties act: subgradient or proximal"
flag shrink "cut what is pruned out of the model at every epoch's end: faster epochs, compact checkpoints"
option epochs N 15 "length of the training"
option lr RATE 5e-4 "peak learning rate, inverse square root schedule"
option warmup-updates N 200 "updates until the peak"
option dropout P "" "dropout (default: as in the checkpoint)"
option max-tokens N 4096 "batch size in tokens (of one GPU)"
option seed N 1 "random seed"
option arch NAME "" "architecture (default: read from the checkpoint, with all model flags)"
passes_on fairseq-train
parse_options "$@"
check_corpus
[ -f "$pretrained" ] || die "--pretrained $pretrained: no such file"
targets=()
if [ -n "$target_heads" ]; then
  check_count target-heads
  targets+=(--target-heads "$target_heads")
fi
if [ -n "$target_sparsity" ]; then
  check_number target-sparsity
  targets+=(--target-sparsity "$target_sparsity")
fi
all_targets="${targets[*]-} ${rest[*]-}" # some are passed on
if [ -n "$plain" ]; then
  [ -z "$attn_penalty_weight$mlp_penalty_weight$head_distance_threshold" ] ||
    die "--plain excludes --attn-penalty-weight, --mlp-penalty-weight and --head-distance-threshold"
  [[ $all_targets != *--target-* ]] ||
    die "--plain excludes targets (--target-heads, --target-sparsity and the like)"
  attn_penalty_weight=0 mlp_penalty_weight=0 head_distance_threshold=none
fi
if [[ $all_targets == *--target-* ]]; then
  attn_penalty_weight=${attn_penalty_weight:-0} mlp_penalty_weight=${mlp_penalty_weight:-0}
  head_distance_threshold=${head_distance_threshold:-none}
fi
attn_penalty_weight=${attn_penalty_weight:-0.005}
mlp_penalty_weight=${mlp_penalty_weight:-0.05}
head_distance_threshold=${head_distance_threshold:-0.2}
for name in epochs warmup-updates max-tokens; do check_count "$name"; done
for name in lr seed attn-penalty-weight mlp-penalty-weight near-zero; do check_number "$name"; done
check_choice head-merge out_proj fc1 none
check_choice penalty-solver subgradient proximal

pruning=(--attn-penalty-weight "$attn_penalty_weight" --mlp-penalty-weight "$mlp_penalty_weight"
  --near-zero "$near_zero" --penalty-solver "$penalty_solver" --head-merge "$head_merge"
  ${targets[@]+"${targets[@]}"})
if [ "$head_distance_threshold" != none ]; then
  check_number head-distance-threshold
  pruning+=(--head-distance-threshold "$head_distance_threshold")
fi
[ -z "$shrink" ] || pruning+=(--shrink)

source "$here/environment.sh"
source "$here/training.sh"
finetune translation_neuroprune label_smoothed_cross_entropy_neuroprune "${pruning[@]}"
