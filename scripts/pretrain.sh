#!/usr/bin/env bash
# Pretrains a dense Transformer with stock fairseq: the paper's first phase.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/options.sh"

about "Pretrain a dense Transformer with fairseq's own task and criterion.
The defaults are for IWSLT14. The same command again goes on where it stopped.
In SAVE_DIR: checkpoint_last.pt, checkpoint_best.pt, train.log, command.txt, finished.json."
required data DIR "prepared corpus, made by scripts/prepare.sh"
required save-dir SAVE_DIR "where checkpoints go"
option arch NAME transformer_18x6_iwslt_de_en "also transformer_18x6_small, transformer_18x6_tiny or any other of fairseq's model transformer"
option epochs N 15 "length of the training"
option lr RATE 5e-4 "peak learning rate, inverse square root schedule"
option warmup-updates N 4000 "updates until the peak"
option dropout P 0.3 "dropout"
option max-tokens N 4096 "batch size in tokens (of one GPU)"
option seed N 1 "random seed"
passes_on fairseq-train
parse_options "$@"
check_corpus
for name in epochs warmup-updates max-tokens; do check_count "$name"; done
for name in lr dropout seed; do check_number "$name"; done

source "$here/environment.sh"
source "$here/training.sh"
train "$data" \
  --task translation --arch "$arch" --share-all-embeddings \
  --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 0.0 --weight-decay 0.0001 \
  --lr "$lr" --lr-scheduler inverse_sqrt --warmup-updates "$warmup_updates" \
  --dropout "$dropout" \
  --criterion label_smoothed_cross_entropy --label-smoothing 0.1 \
  --max-tokens "$max_tokens" --max-epoch "$epochs" --seed "$seed" \
  --no-epoch-checkpoints --log-interval 25
