#!/usr/bin/env bash
# Fine-tunes a pretrained Transformer with one of the methods that NeuroPrune is compared with.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/options.sh"

about "Fine-tune a pretrained Transformer with another pruning method:
  dsp     differentiable subset pruning (Li et al. 2021): exactly K heads
  voita   hard-concrete gates with an L0 penalty (Voita et al. 2019)
  michel  heads removed in order of importance (Michel et al. 2019): exactly K heads
  l1      plain l1 on the attention and MLP weights
The same command again goes on where it stopped. The pruned model is checkpoint_last.pt:
checkpoints from before the heads were chosen, perhaps checkpoint_best.pt, have all heads."
required data DIR "prepared corpus, made by scripts/prepare.sh"
required pretrained CHECKPOINT "where to start from; its architecture is taken over"
required save-dir SAVE_DIR "where checkpoints go"
required method NAME "dsp, voita, michel or l1"
option heads-to-keep K "" "dsp, michel: heads of the whole model that stay"
option dsp-mode MODE "" "dsp: joint, pipelined or straight-through (default: joint)"
option score-lr RATE "" "dsp, voita: learning rate of the scores (default: 0.2 for dsp, 0.1 for voita)"
option score-clip-ratio C "" "dsp: limit the scores' gradient to C times the gates', e.g. 10 (default: no limit)"
option cooldown-updates N "" "dsp: length of the annealing, then the heads are chosen; about half of the run is a good value (default: 15000, as published)"
option l0-penalty-weight LAMBDA "" "voita: weight of the number of open gates per token (default: 0.01)"
option gate-updates N "" "voita: updates until the gates are folded (default: all)"
option prune-updates N "" "michel: updates over which the heads go (default: 500)"
option prune-steps N "" "michel: number of steps (default: 10)"
flag importance-recompute "michel: measure importance anew before every step"
option l1-penalty-weight LAMBDA "" "l1: weight of the norm per token"
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
for name in epochs warmup-updates max-tokens; do check_count "$name"; done
for name in lr seed; do check_number "$name"; done

criterion=label_smoothed_cross_entropy
task=translation_neuroprune
acts=(--pruner "$method")
case $method in
  dsp)
    accepted=" heads-to-keep dsp-mode score-lr score-clip-ratio cooldown-updates "
    needed=heads-to-keep
    ;;
  voita)
    accepted=" score-lr l0-penalty-weight gate-updates "
    needed=""
    ;;
  michel)
    accepted=" heads-to-keep prune-updates prune-steps importance-recompute "
    needed=heads-to-keep
    ;;
  l1)
    accepted=" l1-penalty-weight "
    needed=l1-penalty-weight
    criterion=label_smoothed_cross_entropy_neuroprune
    acts=()
    ;;
  *) die "--method must be dsp, voita, michel or l1, not '$method'" ;;
esac

# What was given goes on to fairseq-train, if the method knows it.
pruning=()
for name in heads-to-keep dsp-mode score-lr score-clip-ratio cooldown-updates l0-penalty-weight gate-updates \
  prune-updates prune-steps importance-recompute l1-penalty-weight; do
  variable=$(variable_of "$name")
  if [ -n "${!variable}" ]; then
    case $accepted in *" $name "*) ;; *) die "--$name is no option of --method $method" ;; esac
    case $name in
      dsp-mode) pruning+=("--$name" "$dsp_mode") ;;
      importance-recompute) pruning+=("--$name") ;;
      *-updates | *-steps | heads-to-keep)
        check_count "$name"
        pruning+=("--$name" "${!variable}")
        ;;
      *)
        check_number "$name"
        pruning+=("--$name" "${!variable}")
        ;;
    esac
  elif [ "$name" = "$needed" ]; then
    die "--method $method needs --$name; see $TOOL --help"
  fi
done
[ -z "$dsp_mode" ] || check_choice dsp-mode joint pipelined straight-through

source "$here/environment.sh"
source "$here/training.sh"
finetune "$task" "$criterion" ${acts[@]+"${acts[@]}"} ${pruning[@]+"${pruning[@]}"}
