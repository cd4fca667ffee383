"""For test_bad_input.py: every way in which input can be wrong, a line each."""

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
STUDY = r"study(/study\.db(-journal)?)?"
LOCKS = r"(save|done)(/\.lock)?"
TRAIN = "corpus --save-dir save --max-epoch 1"
DSP = f"{TRAIN} --task translation_neuroprune --pruner dsp --criterion label_smoothed_cross_entropy"
TUNE = "--data corpus --pretrained good.pt --save-dir save"
TEXT = "--out out --source-lang de --target-lang en --vocab-size 60 --workers 1"
TEXTS = f"{TEXT} --train-pref raw/train --valid-pref raw/valid --test-pref raw/test"
STUDIES = "run --method dsp --grid heads-to-keep=2 --data corpus --pretrained good.pt --out study"
IWSLT = "--out out --archive"
DAMAGED = r"is damaged, no checkpoint, or holds more than data, which is not loaded"

CHECKPOINTS = [
    ("missing.pt", "missing.pt: no such checkpoint"),
    ("raw", "raw: no such checkpoint"),
    *((f"{name}.pt", f"{name}.pt {DAMAGED}") for name in ("empty", "text", "noise", "cut")),
    *((f"{name}.pt", f"{name}.pt {DAMAGED}") for name in ("torn-zip", "mkdir", "eval", "system")),
    ("other.pt", r"lacks 'model', or 'args' and 'cfg'"),
    ("no-settings.pt", "has no settings of a model"),
    ("code-in-model.pt", "holds code in its setting adaptive_softmax_cutoff"),
    ("code-in-task.pt", "holds code in its setting left_pad_source"),
    ("code-nested.pt", "holds code in its setting xformers_att_config"),
    ("code-in-bytes.pt", "holds code in its setting adaptive_softmax_cutoff"),
    ("no-number.pt", "holds no number in its setting encoder_layers"),
    ("nan.pt", "nan.pt is not usable: .* is not finite; take a checkpoint from before"),
]

CASES = [
    Case("user-dir", "more", "unrecognized arguments: more"),
    *(Case("compact", f"{name} out.pt", says) for name, says in CHECKPOINTS),
    *(Case("neuroprune-report", f"{name} --out out", says) for name, says in CHECKPOINTS),
    Case("neuroprune-report", "--out out", "name at least one CHECKPOINT, --run or --results"),
    Case("neuroprune-report", "good.pt --out out --tolerance nan", "nan must be a finite number"),
    Case("neuroprune-report", "good.pt --out file", "--out file is no folder"),
    Case("neuroprune-report", "good.pt --out out --figures x", "--figures: invalid choice: 'x'"),
    Case("neuroprune-report", "good.pt --out full-folder", "full-folder exists; --overwrite repl"),
    Case("neuroprune-report", "good.pt --out no/out", "--out no/out: there is no folder"),
    Case("neuroprune-report", "good.pt good.pt --out out", "good.pt is named twice"),
    Case("neuroprune-report", "good.pt --out out --labels a b", "--labels: 2 for 1 checkpoints"),
    Case("neuroprune-report", "lstm.pt --out out", "'lstm' is none of fairseq's Transformers"),
    Case("neuroprune-report", "--out out --run nowhere", "--run nowhere: no such folder"),
    Case("neuroprune-report", "--out out --run raw", "raw holds no neuroprune.jsonl and no train"),
    Case("neuroprune-report", "--out out --results good.jsonl", "out cannot be wri", disk=1000),
    Case("compact", "", "arguments are required: IN, OUT"),
    Case("compact", "good.pt out.pt --tolerance nan", "--tolerance nan must be a finite number"),
    Case("compact", "good.pt file", "OUT file exists; --overwrite replaces it"),
    Case("compact", "good.pt nowhere/out.pt", "must be a file in an existing folder"),
    Case("compact", "good.pt file/out.pt", "must be a file in an existing folder"),
    Case("compact", "good.pt /dev/null --overwrite", "OUT /dev/null: must be a file"),
    Case("compact", "no-weights.pt out.pt", "weights and settings do not fit; take a checkpoint"),
    Case("compact", "lstm.pt out.pt", "'lstm' is none of fairseq's Transformers"),
    Case("compact", "sizes.pt out.pt", "holds no layers in its setting per_layer_config"),
    Case("compact", "earlier.pt out.pt", "earlier version; run neuroprune-compact on the original"),
    Case("compact", "quant-noise.pt out.pt", "trained with --quant-noise-pq cannot be made"),
    Case("compact", "good.pt out.pt", "OUT out.pt cannot be written; make room", disk=10_000),
    Case("export", "good.pt out --quantization int3", "--quantization: invalid choice: 'int3'"),
    Case("export", "mkdir.pt out", DAMAGED),
    Case("export", "nan.pt out", "is not finite"),
    Case("export", "lstm.pt out", "'lstm' is none of fairseq's Transformers"),
    Case("export", "roberta.pt out", "CTranslate2 .* transformer only, not 'roberta'"),
    Case("export", "good.pt full-folder", "OUT_DIR full-folder exists; --overwrite replaces"),
    Case("export", "good.pt full-folder --overwrite", "is no exported model; name another"),
    Case("export", "good.pt file/out", "OUT_DIR file/out: file is no folder"),
    Case("export", "good.pt out --sentences 0", "--sentences 0 must be at least 1"),
    Case("export", "good.pt out --data corpus --sentencepiece-model x", "-model x: no such file"),
    Case("export", "good.pt out --data nowhere", "nowhere: no such corpus; name .* with --data"),
    Case("export", "good.pt out --data raw", "raw holds no prepared corpus; scripts/prepare.sh"),
    Case("export", "good.pt out --data no-dictionary", "dict.de.txt: no dictionary that can be re"),
    Case("export", "good.pt out --data corpus --subset no", "no text 'no' to read; scripts/prep"),
    Case("export", "good.pt out --data cut-text", "cut-text: no text 'test' to read; scripts/pre"),
    Case("export", "good.pt out --data corpus", "OUT_DIR out cannot be written; make", disk=10_000),
    Case("evaluate", "--data nowhere --checkpoint good.pt", "--data nowhere: no such folder; scri"),
    Case("evaluate", "--data raw --checkpoint good.pt", "--data raw holds no prepared corpus"),
    Case("evaluate", "--data corpus --checkpoint good.pt --subset no", "--subset no: corpus holds"),
    Case("evaluate", "--data no-reference --checkpoint good.pt", "lacks text/test.en, the refere"),
    Case("evaluate", "--data latin1 --checkpoint good.pt", "test.en cannot be read as text"),
    Case("evaluate", "--data no-dictionary --checkpoint good.pt", "no dictionary that can be rea"),
    Case("evaluate", "--data bad-dictionary --checkpoint good.pt", "no dictionary that can be re"),
    Case("evaluate", "--data corpus --checkpoint cut.pt", DAMAGED),
    Case("evaluate", "--data corpus --checkpoint earlier.pt", "earlier version; run neuroprune-c"),
    Case("evaluate", "--data other-words --checkpoint good.pt", "6 words in place of 40"),
    Case("evaluate", "--data corpus --checkpoint eval.pt", DAMAGED),
    Case("evaluate", "--data corpus --checkpoint code-in-task.pt", "holds code in its setting"),
    Case("evaluate", "--data corpus --checkpoint good.pt --beam 0", "--beam and --batch-size must"),
    Case("evaluate", "--data corpus --checkpoint good.pt --tolerance nan", "--tolerance nan must"),
    Case("evaluate", "--data corpus --checkpoint good.pt --field x", "--field x must be KEY=VALU"),
    Case("evaluate", "--data corpus --checkpoint good.pt --results file", "file, line 1 is damag"),
    Case("evaluate", "--data corpus --checkpoint good.pt --results file/r", "file is no folder"),
    Case("evaluate", "--data corpus --checkpoint good.pt --results raw", "--results raw cannot be"),
    Case(
        *("evaluate", "--data corpus --checkpoint good.pt --results /dev/full"),
        *("/dev/full cannot be written; make room .*No space", "good.generate-test.txt"),
    ),
    *(
        Case(command, arguments.format(name), f"{name}.jsonl.*{says}")
        for command, arguments in (
            ("report", "--results {}.jsonl"),
            ("neuroprune-report", "--results {}.jsonl --out out"),
            ("frontier", "table good.jsonl {}.jsonl"),
        )
        for name, says in {
            "missing": "no such results file; .* writes one",
            "torn": "line 2 is damaged: it is no JSON; .* writes such files",
            "deep": "line 1 is damaged: it is no JSON",
            "empty": "is empty; .* adds to it",
            "list": "line 1 is no JSON object",
            "negative": "line 1 has -1 in 'bleu', which is not within 0 and 100",
            "fields": "line 1 lacks '(method|label)'",
            "binary": "cannot be read as text",
        }.items()
    ),
    Case("report", "--results good.jsonl --picture no/picture", "--picture no/picture: there is"),
    Case("report", "--results good.jsonl --picture p", "--picture p cannot be written", disk=1000),
    Case("model_flags", "--checkpoint torn-zip.pt", DAMAGED),
    Case("model_flags", "--checkpoint code-nested.pt", "holds code in its setting xformers_att_"),
    Case("model_flags", "--checkpoint cut.pt --arch transformer", DAMAGED),
    Case("model_flags", "--checkpoint unknown.pt", "'nonsense' is unknown; name one with --arch"),
    Case("frontier", "plot good.jsonl --out p --bands 30", "--bands needs at least two edges"),
    Case("frontier", "plot good.jsonl --out p --bands a", "--bands: a must be a BLEU between"),
    Case("frontier", "plot good.jsonl --out no/p", "no is no folder that can be written to"),
    Case("frontier", "plot good.jsonl --out p", "--out p cannot be written; make room", disk=1000),
    Case("frontier", "plot good.jsonl", "arguments are required: --out"),
    Case("frontier", "table good.jsonl -- --cpu", "table passes nothing on"),
    Case("frontier", f"{STUDIES} --method magic", "--method: invalid choice: 'magic'"),
    Case("frontier", f"{STUDIES} --trials 3", "not allowed with"),
    Case("frontier", f"{STUDIES} --grid x=1", "'x' is no flag of dsp; it has heads-to-keep"),
    Case("frontier", f"{STUDIES} --seeds 1,1", "'1,1' must be different numbers, as in 1,2,3"),
    Case("frontier", f"{STUDIES} --tolerance nan", "--tolerance: nan must be a number"),
    Case("frontier", f"{STUDIES} --scripts raw", "--scripts raw lacks finetune_baseline.sh"),
    Case("frontier", f"{STUDIES} --data nowhere", "--data nowhere: no such folder"),
    Case("frontier", f"{STUDIES} --pretrained system.pt", DAMAGED),
    Case("frontier", f"{STUDIES} --out file", "--out file cannot be made; name another folder"),
    Case("frontier", f"{STUDIES} --storage no", "--storage cannot be opened; name a data", STUDY),
    Case("frontier", f"{STUDIES} --storage sqlite:///", "sqlite:/// would be lost with it", STUDY),
    Case("frontier", f"{STUDIES} --storage :memory:", "--storage cannot be opened; name", STUDY),
    Case("frontier", STUDIES, "--out study cannot be written, or its", STUDY, disk=10),
    Case("text", f"{TEXTS} --train-pref raw/unequal", "unequal.de has 2 lines but .* has 60; par"),
    Case("text", f"{TEXTS} --train-pref raw/none", "raw/none.de: no such file"),
    Case("text", f"{TEXTS} --valid-pref raw/void", "void.de: the file is empty"),
    Case("text", f"{TEXTS} --valid-pref raw/blank", "blank.de: the file is empty"),
    Case("text", f"{TEXTS} --valid-pref raw/unseen", "unseen.de: the file is empty"),
    Case("text", f"{TEXTS} --test-pref raw/latin1", "line 2 is not UTF-8 .byte 0xf6.; convert"),
    Case("text", f"{TEXTS} --test-pref raw/utf16", "line 1 has a null byte, as UTF-16 has; conv"),
    Case("text", f"{TEXTS} --test-pref raw/endless", "endless.de: line 1 is longer than 1,048,576"),
    Case("text", f"{TEXTS} --test-pref raw/half", "half.de.gz: damaged gzip file .*; get it again"),
    Case("text", f"{TEXTS} --target-lang de", "--source-lang and --target-lang are both 'de'"),
    Case("text", f"{TEXTS} --source-lang ../de", "'../de' is not made of letters, digits and _"),
    Case("text", f"{TEXTS} --vocab-size 3", "--vocab-size 3: too small, this text needs more"),
    Case("text", f"{TEXTS} --vocab-size many", "'many' is not a whole number from 2 up"),
    Case("text", f"{TEXTS} --workers 0", "--workers: '0' is not a whole number from 1 up"),
    Case("text", f"{TEXTS} --no-such-flag", "unrecognized arguments: --no-such-flag"),
    Case("text", f"{TEXTS} --out full-folder", "not made by this preparation; name a new folder"),
    Case("text", f"{TEXTS} --out file/out", "--out .*file/out: cannot be written there"),
    Case("text", f"{TEXTS} --out /proc/none/out", "--out /proc/none/out: cannot be written there"),
    Case("text", TEXTS, "--out: File too large", disk=1000),
    Case("toy", "--out out --train-pairs 0", "'0' is not a whole number from 1 up"),
    Case("toy", "--out full-folder", "exists and was not made by this preparation"),
    Case("multi30k", "--out out --raw nowhere", "--raw nowhere: no such folder"),
    Case("multi30k", "--out out --raw raw", "raw/val.de: no such file"),
    *(
        Case("iwslt14", f"{IWSLT} {name}.tgz", f"{name}.tgz: {says}")
        for name, says in {
            "missing": "cannot be read",
            "absolute": "member '/tmp/absolute' reaches outside its folder",
            "parent": "member 'de-en/../../up' reaches outside its folder",
            "symlink": "member 'de-en/link' is a link or device",
            "hardlink": "member 'de-en/hard' is a link or device",
            "device": "member 'de-en/device' is a link or device",
            "lacking": "has no file train.tags.de-en.de",
            "cut": "not a whole tar archive .*; get it again",
            "page": "not a whole tar archive .*; get it again",
            "long-name": "has a header of [0-9,]+ bytes, which no corpus has",
        }.items()
    ),
    Case("prepare.sh", "", "--corpus is missing: toy, multi30k, iwslt14 or text"),
    Case("prepare.sh", "--corpus wmt --out out", "--corpus wmt is unknown: choose toy, multi30k"),
    Case("pretrain.sh", "", "--data DIR is missing"),
    Case("pretrain.sh", "--data", "--data needs a value: DIR"),
    Case("pretrain.sh", "--data --save-dir save", "--data needs a value, not the option"),
    Case("pretrain.sh", "--data nowhere --save-dir save", "--data nowhere: no such folder"),
    Case("pretrain.sh", "--data raw --save-dir save", "--data raw holds no prepared corpus"),
    Case("pretrain.sh", "--data no-dictionary --save-dir save", "holds no prepared corpus .dict"),
    Case("pretrain.sh", "--data corpus --save-dir save --epochs 0", "--epochs must be a whole num"),
    Case("pretrain.sh", "--data corpus --save-dir save --lr=fast", "--lr must be a number of at"),
    Case("pretrain.sh", "--data corpus --save-dir file", "--save-dir file cannot be made; name an"),
    Case("pretrain.sh", "--data corpus --save-dir taken", "another training is running there;"),
    Case("pretrain.sh", "--data corpus --save-dir done", "holds another command's results", LOCKS),
    Case("pretrain.sh", "--data corpus --save-dir save", "cannot be written to;", LOCKS, disk=0),
    Case(
        "pretrain.sh", "--data corpus --save-dir save --python /no/py", "--python /no/py does not"
    ),
    Case("finetune_neuroprune.sh", "--data corpus", "--pretrained CHECKPOINT is missing"),
    Case("finetune_neuroprune.sh", f"{TUNE} --pretrained no.pt", "--pretrained no.pt: no such fi"),
    Case("finetune_neuroprune.sh", f"{TUNE} --plain --target-heads 3", "--plain excludes targets"),
    Case("finetune_neuroprune.sh", f"{TUNE} --head-merge x", "must be one of out_proj fc1 none"),
    Case("finetune_neuroprune.sh", f"{TUNE} --penalty-solver x", "one of subgradient proximal"),
    Case("finetune_neuroprune.sh", f"{TUNE} --dropout x", "--dropout must be a number"),
    Case("finetune_neuroprune.sh", f"{TUNE} --pretrained mkdir.pt", DAMAGED),
    Case("finetune_baseline.sh", f"{TUNE} --method x", "--method must be dsp, voita, michel or l1"),
    Case("finetune_baseline.sh", f"{TUNE} --method dsp", "--method dsp needs --heads-to-keep"),
    Case("finetune_baseline.sh", f"{TUNE} --method l1", "--method l1 needs --l1-penalty-weight"),
    Case(
        "finetune_baseline.sh", f"{TUNE} --method dsp --heads-to-keep 0", "must be a whole number"
    ),
    Case("finetune_baseline.sh", f"{TUNE} --method voita --prune-steps 3", "is no option of --met"),
    Case("finetune_baseline.sh", f"{TUNE} --method voita --score-lr x", "--score-lr must be a nu"),
    Case(
        *("finetune_baseline.sh", f"{TUNE} --method dsp --heads-to-keep 2 --dsp-mode x"),
        "--dsp-mode must be one of joint pipelined straight-through",
    ),
    Case("quickstart.sh", "--fast", "unknown option --fast"),
    Case("quickstart.sh", "--out {here}/file", "--out .*file cannot be made; name another folder"),
    Case("quickstart.sh", "--out {here}/raw", "--out .*raw holds something else.*; name a new"),
    Case("evaluate.sh", "--data corpus", "--checkpoint"),
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
