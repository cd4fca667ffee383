"""A translation task that ends in one line where fairseq would end in a traceback or worse.

Before training: a corpus that is none, a model without attention, a save-dir in which
another process trains. In training: gradients or weights that are not finite; what is
saved then is what was saved before.
"""

import fcntl
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from fairseq import utils
from fairseq.data import data_utils
from fairseq.tasks.translation import TranslationTask
from torch import nn

from neuroprune_fairseq.files.errors import refuse, refusing
from neuroprune_fairseq.plugin import workers
from neuroprune_fairseq.structure import attention_blocks

LOCK_NAME = ".neuroprune.lock"
_BEFORE = "checkpoints from before are as they were"


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


class GuardedTask(TranslationTask):
    """fairseq's translation task with the checks; subclasses know ``self.model``."""

    _claim: Any = None

    @classmethod
    def setup_task(cls, cfg, **kwargs):
        data = utils.split_paths(cfg.data)[0]
        with refusing(f"{data}: no such corpus; scripts/prepare.sh makes one", OSError):
            found = cfg.source_lang and cfg.target_lang or data_utils.infer_language_pair(data)[0]
        if not found:
            refuse(f"{data} holds no prepared corpus; scripts/prepare.sh makes one")
        return super().setup_task(cfg, **kwargs)

    @classmethod
    def load_dictionary(cls, filename):
        with refusing(f"{filename}: no dictionary that can be read; scripts/prepare.sh makes one"):
            return super().load_dictionary(filename)

    def load_dataset(self, split, *args, **kwargs):
        with refusing(f"{self.cfg.data}: no text '{split}' to read; scripts/prepare.sh makes it"):
            super().load_dataset(split, *args, **kwargs)

    def begin_epoch(self, epoch, model):
        super().begin_epoch(epoch, model)
        if not attention_blocks(model):
            refuse("--arch: the model has no attention modules to prune; name a Transformer")
        if self._claim is None and workers.is_first():
            self._claim = claim(Path(self.cfg.save_dir))

    def train_step(
        self, sample, model, criterion, optimizer, update_num, ignore_grad=False, **rest
    ):
        arguments = (sample, model, criterion, optimizer, update_num, ignore_grad)
        error = sys.exc_info()[1]
        if isinstance(error, FloatingPointError):
            # fairseq gave this update up, and runs it again only to log where NaN or Inf begin;
            # with today's torch its search for that may fail.
            with suppress(Exception):
                super().train_step(*arguments, **rest)
            advice = "lower --lr or the penalties' weights, or set --clip-norm"
            refuse(f"update {update_num + 1} failed ({error}); {advice}; {_BEFORE}")
        return super().train_step(*arguments, **rest)

    def get_checkpoint_dict(self):
        # fairseq asks for this just before it saves.
        check_finite(self.model, self.num_updates)
        return {}
