"""For test_bad_input.py: a case of bad input, and those of fairseq-train, a line each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A command line in a folder of good and bad files (bad_input_files.make_files)."""

    command: str
    arguments: str
    says: str  # part of the line, a regular expression
    new: str = "-"  # what may be there afterwards, a regular expression
    disk: int | None = None  # no file may grow beyond so many bytes


SAVE = r"save(/(\.neuroprune\.lock|crash\.pt))?"
EPOCH = r"save(/(\.neuroprune\.lock|neuroprune\.jsonl))?"
TRAIN = "corpus --save-dir save --max-epoch 1"
DSP = f"{TRAIN} --task translation_neuroprune --pruner dsp --criterion label_smoothed_cross_entropy"
DAMAGED = r"is damaged, no checkpoint, or holds more than data, which is not loaded"

TRAINING = [
    Case("fairseq-train", "nowhere --save-dir save", "nowhere: no such corpus; scripts/prep", SAVE),
    Case("fairseq-train", "raw --save-dir save", "raw holds no prepared corpus; scripts/pre", SAVE),
    Case("fairseq-train", "no-dictionary --save-dir save", "no dictionary that can be read", SAVE),
    Case("fairseq-train", "bad-dictionary --save-dir save", "no dictionary that can be read", SAVE),
    Case("fairseq-train", "no-training-text --save-dir save", "no text 'train' to read; s", SAVE),
    *(
        Case("fairseq-train", f"{TRAIN} {flags}", says, SAVE)
        for flags, says in {
            "--attn-penalty-weight=-1": "--attn-penalty-weight -1.0 must be a finite number >= 0",
            "--mlp-penalty-weight nan": "--mlp-penalty-weight nan must be a finite number >= 0",
            "--near-zero inf": "--near-zero inf must be a finite number >= 0",
            "--head-distance-threshold=-1": "threshold -1.0 is not a distance; it must be >= 0",
            "--head-merge x": "--head-merge x is none of out_proj, fc1, none",
            "--head-criterion x": "--head-criterion x is none of both, importance, redundancy",
            "--penalty-solver x": "--penalty-solver x is none of subgradient, proximal",
            "--target-heads 0": "--target-heads 0 must be a number of heads",
            "--target-heads 99": "--target-heads 99 must be 1 to 18, the heads that",
            "--target-sparsity 1.5": r"--target-sparsity 1.5 must be a share in \[0, 1\)",
            "--target-heads 9 --head-distance-threshold 1": "drop --head-distance-threshold",
            "--target-heads 9 --target-update 999": "--target-update 999 must be within the run",
            "--target-heads 9 --patience 2": "--patience could end the run before .*; drop it",
            "--target-heads 9 --head-layout x": "--head-layout x is none of anywhere, even",
            "--target-sparsity 0.5 --head-layout even": "--head-layout even needs --target-heads",
            "--target-heads 2 --head-layout even": "2 cannot be even; the nearest number is 3",
            "--target-speedup fast": "--target-speedup fast must be numbers, such as 2 or 1.5,2,3",
            "--target-speedup 0.5": "--target-speedup 0.5 must be factors above 1, such as 2",
            "--target-speedup 3,2": "--target-speedup 3,2 must be in order, the largest model f",
            "--target-speedup 999": r"--target-speedup 999 cannot be reached: \d+.\d+ is the most",
            "--target-flops 1.5": "--target-flops 1.5 must be shares between 0 and 1, such as 0.5",
            "--target-flops 0.001": r"cannot be reached: 0\.\d+ is the least for this model",
            "--target-parameters 0": "--target-parameters 0 must be shares between 0 and 1",
            "--target-parameters .9,.8": "2 models need as many epochs; raise --max-epoch",
            "--target-flops 0.5 --target-speedup 2": "one budget at a time; drop all but one",
            "--target-flops 0.5 --target-heads 9": "--target-flops decides what goes; drop the",
            "--target-flops .5 --head-distance-threshold 1": "drop --head-distance-threshold",
            "--target-flops 0.5 --target-parts feet": "must be some of heads,neurons,layers",
            "--target-flops 0.5 --cost-table x": "what --target-speedup counts by; name that",
            "--target-speedup 2 --cost-table x": "x",
            "--target-flops 0.5 --patience 2": "--patience could end the run before .*; drop it",
            "--arch lstm": "the model has no attention modules to prune; name a Transformer",
            "--lr 1e999 --max-tokens 9999": "is not finite after 1 updates; lower --lr",
            "--lr 1e30": "update 2 failed .*; lower --lr or the penalties' weights",
            "--attn-penalty-weight 1e38 --clip-norm 1": "update 1 failed .*; lower --lr or the",
            "--finetune-from-model nan.pt": "update 1 failed .gradients are Nan/Inf.; lower",
            "--finetune-from-model missing.pt": "missing.pt: no such checkpoint",
            "--finetune-from-model mkdir.pt": f"mkdir.pt {DAMAGED}",
            "--restore-file missing.pt": "missing.pt: no such checkpoint",
            "--restore-file cut.pt": f"cut.pt {DAMAGED}",
            "--restore-file earlier.pt": "earlier version; run neuroprune-compact on the original",
            "--restore-file sizes.pt": "per_layer_config of the compact checkpoint does not fit",
            "--restore-file code-nested.pt": "code-nested.pt holds code in its setting xformers",
            "--finetune-from-model code-in-task.pt": "code-in-task.pt holds code in its setting",
            "--restore-file other.pt": "other.pt is no checkpoint .*it lacks 'model'",
            "--restore-file good.pt --encoder-layers 2": "does not fit .*--encoder-layers 1$",
            "--restore-file good.pt --encoder-ffn-embed-dim 32": "--encoder-ffn-embed-dim 96$",
            "--restore-file good.pt --encoder-attention-heads 3": "--encoder-attention-heads 6$",
            "--finetune-from-model good.pt --arch lstm": "with --arch transformer_18x6_tiny",
            "--finetune-from-model good.pt --arch transformer": "with --arch transformer_18",
            "--restore-file good.pt --criterion cross_entropy": "was LabelSmoothed.*--reset-o",
            "--restore-file good.pt --optimizer nag": "was FairseqAdam, .*--reset-optimizer",
            "--restore-file good.pt --bf16": "adam --bf16: it was FairseqAdam, ",
            "--restore-file good.pt --lr-scheduler reduce_lr_on_plateau": "fixed; .*--reset-lr-sch",
            "--restore-file good.pt --finetune-from-model good.pt": "excludes --restore-file",
            "--finetune-from-model good.pt --reset-meters": "implies; drop --reset-meters",
            "--restore-file begun-earlier.pt": "an earlier version .*TranslationDspTask",
            "--restore-file no-state.pt": "an earlier version .*TranslationNeuropruneTask.*--finet",
            "--restore-file other-task.pt": "another --task .OtherTask.; name that one, or start",
            "--restore-file broken-state.pt --target-heads 9": "the pruner's state .* is damaged",
            "--restore-file good.pt --pruner michel --target-heads 9": "with --pruner neuropr",
            "--distill-from missing.pt": "missing.pt: no such checkpoint",
            "--distill-from good.pt:mkdir.pt": f"mkdir.pt {DAMAGED}",
            "--distill-from nan.pt": "nan.pt is not usable: .* is not finite",
            "--distill-from lstm.pt": "'lstm' is none of fairseq's Transformers",
            "--distill-from good.pt:": "--distill-from good.pt: must name checkpoints, ':' betw",
            "--distill-weight 1.5": "--distill-weight 1.5 must be within 0 and 1",
            "--distill-weight nan": "--distill-weight nan must be within 0 and 1",
            "--distill-temperature 0": "--distill-temperature 0.0 must be a number above 0",
            "--distill-temperature inf": "--distill-temperature inf must be a number above 0",
            "--distill-top-k=-1": "--distill-top-k -1 must be a number of tokens, or 0 for all",
            "--fp16": "--fp16 trains on a GPU alone; drop it, or use --bf16",
            "--max-tokens 2": "--max-tokens 2: every sentence is longer, .*; raise it",
            "--max-tokens 5": "--max-tokens 5: a sentence is longer .*; raise it",
            "--encoder-layers-to-keep 0": "-to-keep trains .* with --encoder-layers",
            "--max-update 1 --target-heads 9": "a run of two updates; raise --max-up",
            "--task language_modeling_neuroprune": "--arch transformer_18x6_tiny: --task",
            "--task masked_lm_neuroprune --arch transformer": "--arch transformer: --task",
            "--task masked_lm_neuroprune --arch roberta": "dict.txt cannot be read .*; fairs",
            "--task sentence_prediction_neuroprune": "which --criterion label_.* does not",
            "--task translation_multi_simple_epoch_neuroprune": "neuroprune needs --lang-pairs$",
            "--task translation_from_pretrained_bart_neuroprune": "neuroprune needs --langs$",
            "--arch transformer_lm": "--arch transformer_lm: --task translation_neuroprune trains",
            "--criterion masked_lm": "--criterion masked_lm does not go with --task",
            "--criterion sentence_prediction": "sentence_prediction does not go with --task transl",
            "--criterion adaptive_loss": "needs --adaptive-softmax-cutoff",
            "--ddp-backend fully_sharded": "--ddp-backend fully_sharded cannot prune; use pytor",
            "--ddp-backend slowmo": "--ddp-backend slowmo cannot prune; use pytorch_ddp or leg",
            "--use-bmuf": "--use-bmuf cannot prune; drop it",
            "--tpu": "--tpu, which --bf16 implies for fairseq-train, is not supported; use --fp16",
        }.items()
    ),
    Case(
        *("fairseq-train", "corpus --save-dir save --target-heads 9"),
        *("--max-epoch or --max-update is needed", SAVE),
    ),
    Case(
        *("fairseq-train", f"{TRAIN} --task translation --penalty-solver proximal"),
        *("--penalty-solver proximal needs a task with a pruner: translation_neuroprune", SAVE),
    ),
    Case(
        "fairseq-train",
        f"{TRAIN} --memory-efficient-bf16 --penalty-solver proximal --mlp-penalty-weight 1",
        "--penalty-solver proximal needs fp32 weights.*; use --fp16, --bf16 or --amp",
        SAVE,
    ),
    Case(
        *("fairseq-train", "other-words --save-dir save --distill-from good.pt"),
        *("--distill-from good.pt: its source dictionary has 40 words in place of 6", SAVE),
    ),
    Case(
        *("fairseq-train", "swapped-words --save-dir save --distill-from good.pt"),
        *("--distill-from good.pt: its source dictionary .*/dict.de.txt has other words", SAVE),
    ),
    Case("fairseq-train", f"{DSP} --heads-to-keep 0", "--target-heads 0 must be a number", SAVE),
    Case("fairseq-train", f"{DSP} --heads-to-keep 19", "19 must be 1 to 18, the heads that", SAVE),
    Case("fairseq-train", f"{DSP} --heads-to-keep 2 --dsp-mode x", "--dsp-mode x is none of", SAVE),
    Case(
        "fairseq-train", f"{DSP} --heads-to-keep 2 --patience 1", "--patience could end the", SAVE
    ),
    Case("fairseq-train", f"{TRAIN} --save-dir taken", "another training is running there; name"),
    Case("fairseq-train", "corpus --save-dir file/save", "--save-dir file/save cannot be written"),
    Case("fairseq-train", TRAIN, "save/checkpoint1.pt cannot be written .*; make", EPOCH, 99_000),
]
