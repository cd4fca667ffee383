#!/usr/bin/env bash
# Fine-tunes a pretrained Transformer until it is as fast, or as sparse, as you ask for. This
# is the recommended way to prune.
#
# usage: finetune_targets.sh --data DIR --pretrained CHECKPOINT --save-dir DIR [--epochs N] [FLAG...]
#
#   --target-speedup X    end with a model X times as fast, by a table that neuroprune-profile measured
#                         (--cost-table FILE); or --target-flops, --target-parameters with a share
#   --target-sparsity S   end with this share of zeros among the q, k, v, fc1, fc2 weights (0.5 if
#                         no target is named); or --target-attn-sparsity, --target-mlp-sparsity
#   --target-heads K      end with exactly K heads of the whole model
#   --compact             cut what is pruned out of the model at every epoch's end
#
# The model is the checkpoint's (or --arch NAME).
set -euo pipefail
target=(--target-sparsity 0.5)
epochs=15
source "$(dirname "${BASH_SOURCE[0]}")/training.sh"
take_model_over
[[ " $*" =~ \ --target-(heads|((attn|mlp)-)?sparsity|speedup|flops|parameters) ]] && target=()

fairseq_train "$data" --save-dir "$save_dir" \
  --task translation_neuroprune "${model[@]}" --finetune-from-model "$pretrained" \
  --criterion label_smoothed_cross_entropy_neuroprune --label-smoothing 0.1 \
  ${target[@]+"${target[@]}"} \
  --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 0.0 --weight-decay 0.0001 \
  --lr 5e-4 --lr-scheduler inverse_sqrt --warmup-updates 200 \
  --max-tokens 4096 --max-epoch "$epochs" --seed 1 --no-epoch-checkpoints --log-interval 25 "$@"
