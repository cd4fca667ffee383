#!/usr/bin/env bash
# Trains a Transformer language model, or prunes one that was trained.
#
# usage: language_model.sh --data DIR --save-dir DIR [--pretrained CHECKPOINT] [--epochs N] [FLAG...]
#
#   --pretrained CHECKPOINT   fine-tune this model, with any flags of a method: --target-sparsity 0.5,
#                             --target-speedup 2, --pruner dsp --target-heads 24 --cooldown-updates N,
#                             --l1-penalty-weight W, --attn-penalty-weight W --mlp-penalty-weight W
#
# The corpus is one that prepare.sh --corpus monolingual made. Without --pretrained a model of width
# 256 with 6 layers of 8 heads is trained from nothing; --arch and the flags of a model change that.
set -euo pipefail
epochs=10
source "$(dirname "${BASH_SOURCE[0]}")/training.sh"
start=()
if [ -n "$pretrained" ]; then
  take_model_over
  start=(--finetune-from-model "$pretrained")
else
  model=(--arch "${arch:-transformer_lm}" --share-decoder-input-output-embed
    --decoder-embed-dim 256 --decoder-ffn-embed-dim 1024)
fi

fairseq_train "$data" --save-dir "$save_dir" \
  --task language_modeling_neuroprune "${model[@]}" ${start[@]+"${start[@]}"} \
  --criterion cross_entropy_neuroprune --tokens-per-sample 256 --sample-break-mode none \
  --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0 --weight-decay 0.01 \
  --lr 1e-3 --lr-scheduler inverse_sqrt --warmup-updates 200 \
  --max-tokens 4096 --max-epoch "$epochs" --seed 1 --no-epoch-checkpoints --log-interval 25 "$@"
