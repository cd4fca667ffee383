#!/usr/bin/env bash
# Trains a dense Transformer with fairseq's own task and criterion: the paper's first phase.
#
# usage: pretrain.sh --data DIR --save-dir DIR [--arch NAME] [--epochs N] [FLAG...]
#
# The values are for IWSLT14. --arch: also transformer_18x6_small or _tiny, or any other of
# fairseq's model transformer.
set -euo pipefail
arch=transformer_18x6_iwslt_de_en
epochs=15
source "$(dirname "${BASH_SOURCE[0]}")/training.sh"

fairseq_train "$data" --save-dir "$save_dir" \
  --task translation --arch "$arch" --share-all-embeddings --dropout 0.3 \
  --criterion label_smoothed_cross_entropy --label-smoothing 0.1 \
  --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 0.0 --weight-decay 0.0001 \
  --lr 5e-4 --lr-scheduler inverse_sqrt --warmup-updates 4000 \
  --max-tokens 4096 --max-epoch "$epochs" --seed 1 --no-epoch-checkpoints --log-interval 25 "$@"
