#!/usr/bin/env bash
# From nothing to a pruned translation model and to a table: at most 8 minutes on 2 cores, and
# the installation.
#
# usage: quickstart.sh [--out DIR]
#
#   --out DIR   where everything goes (runs/quickstart; a relative path: from the checkout)
#
# The recommended way first: a model that ends twice as fast in the engine that will run it, cut down
# while it trains, and exported. Beside it the dense model, the paper's method and DSP. The second run
# continues, or skips what is done, and prints the table again.
set -euo pipefail
out=runs/quickstart
refuse() { echo "quickstart.sh: error: $*" >&2; exit 2; }
case ${1-} in
  --help | -h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;;
  --out) [ -n "${2-}" ] || refuse "--out needs a value"; out=$2; shift 2 ;;
  --out=*) out=${1#*=}; shift ;;
esac
[ $# = 0 ] || refuse "unknown option $1; see --help"

pretraining="--arch transformer_18x6_tiny --epochs 6 --lr 4e-3 --warmup-updates 200 --dropout 0 --max-tokens 2048"
tuning="--lr 2e-3 --warmup-updates 50 --max-tokens 2048"
epochs=3
pairs=10000
tolerance=1e-3 # of the paper's method, which makes weights small, not zero
target="--target-speedup 2"
neuroprune="attn-penalty-weight=1e-3,3e-3;mlp-penalty-weight=0.1;head-distance-threshold=0.5"
dsp="heads-to-keep=28;cooldown-updates=150;score-clip-ratio=10"

cd "$(dirname "${BASH_SOURCE[0]}")/.."
settings="$pretraining $tuning $epochs $pairs $tolerance $target $neuroprune $dsp"
mkdir -p "$out" 2>/dev/null || refuse "--out $out cannot be made; name another folder"
[ -z "$(ls -A "$out")" ] || [ "$(cat "$out/settings.txt" 2>/dev/null)" = "$settings" ] ||
  refuse "--out $out holds something else, or a quickstart of other settings; name a new folder"
echo "$settings" >"$out/settings.txt"

step=0
step() {
  step=$((step + 1))
  printf '\n[%d/9] %s (%d min %02d s so far)\n' "$step" "$1" $((SECONDS / 60)) $((SECONDS % 60))
}

# finetune RECIPE NAME FLAG...: trains $out/NAME, exports it, translates with fairseq and the engine.
finetune() {
  local recipe=$1 run=$out/$2
  # shellcheck disable=SC2086
  bash "scripts/finetune_$recipe.sh" --data "$out/corpus" --save-dir "$run" --epochs "$epochs" \
    --pretrained "$out/pretrained/checkpoint_last.pt" $tuning "${@:3}"
  [ -e "$run/engine" ] || "$PYTHON" -m neuroprune_fairseq.cli.export "$run/checkpoint_last.pt" \
    "$run/engine" --data "$out/corpus" --sentences 100 --quantization int8
  [ -e "$run/fairseq.jsonl" ] || bash scripts/evaluate.sh --data "$out/corpus" --label "$2" \
    --checkpoint "$run/checkpoint_last.pt" --results "$run/fairseq.jsonl"
  [ -e "$run/engine.jsonl" ] || bash scripts/evaluate.sh --data "$out/corpus" --label "$2" \
    --checkpoint "$run/checkpoint_last.pt" --results "$run/engine.jsonl" --engine "$run/engine" \
    --batch-size 64 # as neuroprune-profile measures
}

# frontier METHOD GRID: fine-tunes and evaluates every setting, two at a time.
frontier() {
  # shellcheck disable=SC2086
  "$PYTHON" -m neuroprune_experiments.frontier run --method "$1" --grid "$2" --jobs 2 \
    --data "$out/corpus" --pretrained "$out/pretrained/checkpoint_last.pt" --out "$out/$1" \
    --epochs "$epochs" --tolerance "$tolerance" -- $tuning
}

step "Environment: 2 to 5 minutes the first time"
make_it=yes
also_needed="ctranslate2 matplotlib num2words optuna tabulate"
source scripts/environment.sh
step "Corpus: a German-English grammar makes $pairs pairs: 15 seconds"
bash scripts/prepare.sh --corpus toy --train-pairs "$pairs" --out "$out/corpus"
step "Pretraining a dense model: about 2 minutes"
# shellcheck disable=SC2086
bash scripts/pretrain.sh --data "$out/corpus" --save-dir "$out/pretrained" $pretraining
step "What heads, neurons and layers cost in the engine on this machine: about a minute"
[ -e "$out/cost.json" ] || "$PYTHON" -m neuroprune_fairseq.cli.profile \
  "$out/pretrained/checkpoint_last.pt" --data "$out/corpus" --out "$out/cost.json"
step "A target: twice as fast in the engine: about a minute"
# shellcheck disable=SC2086
finetune targets target $target --cost-table "$out/cost.json"
step "The dense model fine-tuned as it is, for comparison: about a minute"
finetune baseline dense
step "The paper's method, two settings at a time: about 2 minutes"
frontier neuroprune "$neuroprune"
step "DSP, which keeps a number of heads and all other weights: about a minute"
frontier dsp "$dsp"
step "Result"
echo "BLEU and speed on this machine. NeuroPrune's and DSP's weights below $tolerance are taken as zero."
results=("$out"/{dense,target}/{fairseq,engine}.jsonl "$out"/{neuroprune,dsp}/results.jsonl)
"$PYTHON" -m neuroprune_experiments.table --results "${results[@]}" --picture "$out/overview"
