#!/usr/bin/env bash
# Fine-tunes a pretrained Transformer as it is, or with a method that NeuroPrune is compared with.
#
# usage: finetune_baseline.sh --data DIR --pretrained CHECKPOINT --save-dir DIR [--epochs N] [FLAG...]
#
#   (no flag)                              no pruning
#   --pruner dsp --heads-to-keep K         differentiable subset pruning (Li et al. 2021);
#                                          --cooldown-updates: half of the run is a good value
#   --pruner voita --l0-penalty-weight W   hard-concrete gates with an L0 penalty (Voita et al. 2019)
#   --pruner michel --heads-to-keep K      heads go in order of importance (Michel et al. 2019)
#   --l1-penalty-weight W                  plain l1 on the attention and MLP weights
#
# The model is the checkpoint's (or --arch NAME). The pruned one is checkpoint_last.pt: checkpoints
# from before the heads were chosen, perhaps checkpoint_best.pt, have all heads.
set -euo pipefail
epochs=15
source "$(dirname "${BASH_SOURCE[0]}")/training.sh"
take_model_over

fairseq_train "$data" --save-dir "$save_dir" \
  --task translation_neuroprune "${model[@]}" --finetune-from-model "$pretrained" \
  --criterion label_smoothed_cross_entropy_neuroprune --label-smoothing 0.1 \
  --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 0.0 --weight-decay 0.0001 \
  --lr 5e-4 --lr-scheduler inverse_sqrt --warmup-updates 200 \
  --max-tokens 4096 --max-epoch "$epochs" --seed 1 --no-epoch-checkpoints --log-interval 25 "$@"
