"""Where a run ends in one line in place of a traceback or worse.

Before training: settings that cannot prune, a corpus that is none, a model without attention, a
save-dir in which another process trains. In training: gradients or weights that are not finite;
what is saved then is what was saved before.
"""

import fcntl
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from fairseq import utils
from fairseq.data import data_utils
from fairseq.tasks.translation import TranslationTask
from torch import nn

from neuroprune_fairseq.files.errors import reason, refuse, refusing

LOCK_NAME = ".neuroprune.lock"
_BEFORE = "checkpoints from before are as they were"


def check_workers(settings: Any) -> None:
    """Refuse workers that share the weights among them: the edits need all, the same in each.

    Args:
        settings: with plugin.flags.TaskFlags.

    Raises:
        SystemExit: one line that names the flag.
    """
    if settings.ddp_backend in ("fully_sharded", "slowmo"):
        refuse(f"--ddp-backend {settings.ddp_backend} cannot prune; use pytorch_ddp or legacy_ddp")


def check_settings(settings: Any) -> None:
    """Refuse settings of a run whose model cannot be pruned in training.

    Args:
        settings: with plugin.flags.TaskFlags.

    Raises:
        SystemExit: one line that names the flag.
    """
    if settings.use_bmuf:
        refuse("--use-bmuf cannot prune; drop it")
    if settings.tpu:
        refuse(
            "--tpu, which --bf16 implies for fairseq-train, is not supported; use --fp16 or "
            "--amp, or fairseq-hydra-train with common.bf16=true"
        )
    if settings.compact and settings.head_merge == "fc1":
        refuse("--compact excludes --head-merge fc1, which needs all heads in their places")
    _check_files(settings)
    _check_machine(settings)


def _check_files(settings: Any) -> None:
    if settings.finetune_from_model is None:
        return
    if settings.restore_file != "checkpoint_last.pt":
        refuse("--finetune-from-model excludes --restore-file; name one file to start from")
    for what in ("optimizer", "lr_scheduler", "meters", "dataloader"):
        if getattr(settings, f"reset_{what}"):
            flag = f"--reset-{what.replace('_', '-')}"
            refuse(f"--finetune-from-model excludes {flag}, which it implies; drop {flag}")


def _check_machine(settings: Any) -> None:
    flat = not (settings.memory_efficient_fp16 or settings.fp16_no_flatten_grads)
    if settings.fp16 and flat:
        with refusing("--fp16 trains on a GPU alone; drop it, or use --bf16"):
            torch.cuda.current_device()  # as fairseq's optimizer does
    if settings.num_workers > 0:
        advice = "reads no data where /dev/shm cannot be written to; use --num-workers 0"
        with refusing(f"--num-workers {settings.num_workers} {advice}", OSError):
            multiprocessing.Lock()


def check_model_settings(settings: Any) -> None:
    """Refuse settings of a model that fairseq cannot build one with, to be trained.

    Args:
        settings: of the model.

    Raises:
        SystemExit: one line that names the flag.
    """
    for side in ("encoder", "decoder"):
        if getattr(settings, f"{side}_layers_to_keep", None):
            refuse(
                f"--{side}-layers-to-keep trains nothing, it is for generation; name a number of "
                f"layers with --{side}-layers"
            )


def check_whole_run(settings: Any) -> None:
    """Refuse settings with which a method does not know when the run ends.

    Raises:
        SystemExit: one line that names the flag.
    """
    if settings.patience > 0:
        refuse("--patience could end the run before its heads are chosen; drop it")
    if max(settings.max_epoch, settings.max_update) <= 0:
        refuse(
            "--max-epoch or --max-update is needed: what a target or a gate does depends on when "
            "the run ends"
        )


def check_precision(settings: Any) -> None:
    """Refuse proximal steps on weights that are not fp32."""
    if settings.memory_efficient_fp16 or settings.memory_efficient_bf16:
        refuse(
            "--penalty-solver proximal needs fp32 weights, its steps are too small for others; "
            "use --fp16, --bf16 or --amp in place of --memory-efficient-fp16 or -bf16"
        )


def check_corpus(task: type, settings: Any) -> None:
    """Refuse a folder that holds no corpus for a task.

    Args:
        task: a class of fairseq's tasks.
        settings: its settings.

    Raises:
        SystemExit: one line.
    """
    data = utils.split_paths(settings.data)[0]
    if not issubclass(task, TranslationTask):
        if not Path(data).is_dir():
            refuse(f"{data}: no such corpus; fairseq-preprocess makes one")
        return
    with refusing(f"{data}: no such corpus; scripts/prepare.sh makes one", OSError):
        pair = settings.source_lang and settings.target_lang
        found = pair or data_utils.infer_language_pair(data)[0]
    if not found:
        refuse(f"{data} holds no prepared corpus; scripts/prepare.sh makes one")
    # fairseq would take the first it finds, and leave the language tokens of such a corpus out.
    pairs = {file.name.split(".")[1] for file in Path(data).glob("*.*-*.*.idx")}
    if len(pairs) > 1 and not pair:
        found = f"holds {', '.join(sorted(pairs)[:9])}"
        many = "--task translation_multi_simple_epoch_neuroprune learns all"
        refuse(f"{data} {found}: name one with --source-lang and --target-lang, or {many}")


@contextmanager
def refusing_missing_files(data: str) -> Iterator[None]:
    """Within it, a file that a task does not find ends the run in one line."""
    try:
        yield
    except OSError as error:
        lacking = f"{error.filename} cannot be read ({reason(error)})"
        refuse(f"{data} is no corpus of this --task: {lacking}; fairseq-preprocess makes one")


@contextmanager
def refusing_batches(max_tokens: int | None = None, **_: Any) -> Iterator[None]:
    """Within it, a text of which no batches can be made ends the run in one line.

    Args:
        max_tokens: --max-tokens; sentences that are longer are left out of the training text.
    """
    try:
        yield
    except IndexError:
        longer = "every sentence is longer, or longer than the model's positions"
        refuse(f"--max-tokens {max_tokens}: {longer}; raise it")
    except Exception as error:
        if type(error) not in (Exception, AssertionError):  # fairseq's own are of no kind
            raise
        refuse(f"--max-tokens {max_tokens}: a sentence is longer ({reason(error)}); raise it")


def count_empty_translations_(logging_outputs: list[dict[str, Any]]) -> None:
    """Let --eval-bleu give a BLEU of 0, in place of none, where all translations are empty.

    fairseq leaves a batch without any words out, and then finds no BLEU to choose the best
    checkpoint by. A billionth of a word is too little to change any other BLEU.

    Args:
        logging_outputs: of a batch; changed in place.
    """
    counted = [log for log in logging_outputs if "_bleu_totals_0" in log]
    if counted and not sum(log["_bleu_totals_0"] for log in counted):
        counted[0]["_bleu_totals_0"] = 1e-9


def claim(folder: Path) -> Any:
    """Make a save-dir this process's own until it ends.

    Args:
        folder: an existing folder.

    Returns:
        An open file that holds the lock while it is open. It is a POSIX lock, which ends as
        soon as any file object of this process on that file is closed.

    Raises:
        SystemExit: one line, when another process trains there.
    """
    file = (folder / LOCK_NAME).open("w")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        refuse(f"--save-dir {folder}: another training is running there; name a new folder")
    except OSError:
        pass  # a file system without locks
    return file


def check_finite(model: nn.Module, num_updates: int) -> None:
    """Refuse to go on with a model that is of no more use.

    Raises:
        SystemExit: one line that names a parameter that is not finite.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            refuse(f"{name} is not finite after {num_updates} updates; lower --lr; {_BEFORE}")


def refuse_failed_update(update: int, error: BaseException) -> None:
    """End a run whose update fairseq gave up.

    Raises:
        SystemExit: one line.
    """
    advice = "lower --lr or the penalties' weights, or set --clip-norm"
    refuse(f"update {update} failed ({error}); {advice}; {_BEFORE}")
