#!/usr/bin/env bash
# Fine-tunes a pretrained Transformer with NeuroPrune: the paper's second phase.
#
# usage: finetune_neuroprune.sh --data DIR --pretrained CHECKPOINT --save-dir DIR [--epochs N] [FLAG...]
#
#   --attn-penalty-weight ALPHA       weight of R_attn (0.005; the paper tried 0.005 to 0.5)
#   --mlp-penalty-weight BETA         weight of R_mlp (0.05; the paper tried 0.05 and 0.1)
#   --head-distance-threshold THETA   heads that differ by at most this are similar (0.2; the
#                                     paper tried 0.1 to 0.4)
#   --head-merge, --near-zero, --penalty-solver, --compact: see docs/paper.md
#
# The values are for IWSLT14: what fits depends on the width of the model and the number of
# updates. The model is the checkpoint's (or --arch NAME).
set -euo pipefail
epochs=15
source "$(dirname "${BASH_SOURCE[0]}")/training.sh"
take_model_over

fairseq_train "$data" --save-dir "$save_dir" \
  --task translation_neuroprune "${model[@]}" --finetune-from-model "$pretrained" \
  --criterion label_smoothed_cross_entropy_neuroprune --label-smoothing 0.1 \
  --attn-penalty-weight 0.005 --mlp-penalty-weight 0.05 --head-distance-threshold 0.2 \
  --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 0.0 --weight-decay 0.0001 \
  --lr 5e-4 --lr-scheduler inverse_sqrt --warmup-updates 200 \
  --max-tokens 4096 --max-epoch "$epochs" --seed 1 --no-epoch-checkpoints --log-interval 25 "$@"
