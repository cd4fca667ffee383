"""What fairseq does around a training: what belongs together, the writing of checkpoints."""

from __future__ import annotations

import functools
import typing
from contextlib import suppress
from pathlib import Path

from neuroprune_fairseq.files.errors import reason, refuse, refusing


def make_meters_plain_() -> None:
    """Let checkpoints of a run with --eval-bleu be loaded: no arrays among the meters, in place.

    fairseq counts n-grams in arrays of NumPy, which torch's safe loader refuses in a checkpoint,
    and saves its meters without asking a task. Lists add up with arrays as arrays do.
    """
    import numpy
    from fairseq.logging import metrics

    for meters in metrics._aggregators.values():
        for meter in meters.values():
            for name, value in vars(meter).items():
                if isinstance(value, numpy.ndarray):
                    setattr(meter, name, value.tolist())


def refuse_what_does_not_belong_together() -> None:
    """Let fairseq-train say in one line that a task, a model and a criterion do not fit.

    It looks settings of the one up in another before it sets up any of them.
    """
    from fairseq import options
    from fairseq.tasks import TASK_REGISTRY

    parse = options.parse_args_and_arch

    @functools.wraps(parse)
    def parse_and_check(*arguments: typing.Any, **settings: typing.Any) -> typing.Any:
        from neuroprune_fairseq.plugin.belonging import check_belonging
        from neuroprune_fairseq.plugin.task import PruningTask

        parsed = parse(*arguments, **settings)
        args = parsed[0] if isinstance(parsed, tuple) else parsed
        task = TASK_REGISTRY.get(getattr(args, "task", None), object)
        if getattr(args, "arch", None) and issubclass(task, PruningTask):
            check_belonging(args)
        return parsed

    options.parse_args_and_arch = parse_and_check


def refuse_unwritable_save_dirs() -> None:
    """Let fairseq-train say in one line that it cannot write to its --save-dir.

    It tries before it sets up any task or model, so no hook comes earlier.
    """
    from fairseq import checkpoint_utils

    verify = checkpoint_utils.verify_checkpoint_directory

    @functools.wraps(verify)
    def verify_or_refuse(save_dir: str) -> None:
        with refusing(f"--save-dir {save_dir} cannot be written to; name another folder", OSError):
            verify(save_dir)

    checkpoint_utils.verify_checkpoint_directory = verify_or_refuse


def _refuse_unwritten(temporary: str, error: Exception) -> typing.NoReturn:
    with suppress(OSError):
        Path(temporary).unlink(missing_ok=True)
    path = temporary.removesuffix(".tmp")
    advice = "make room and start again; checkpoints from before are as they were"
    refuse(f"{path} cannot be written ({reason(error)}); {advice}")


def write_checkpoints_whole() -> None:
    """Let a training that is killed, or has no room, leave whole checkpoints and lose none.

    When fairseq fails to write a checkpoint it writes it again behind the torso of the first,
    and ends with a traceback. It copies a checkpoint right onto an older one, and so may lose
    both. No hook lies around either.
    """
    import torch
    from fairseq import checkpoint_utils

    manager = checkpoint_utils.PathManager
    copy = manager.copy
    if hasattr(copy, "__wrapped__"):
        return

    def save_once(content: typing.Any, file: typing.IO[bytes]) -> None:
        try:
            torch.save(content, file)
            file.flush()
        except (OSError, RuntimeError) as error:
            with suppress(OSError):  # it tries to write what is left
                file.close()
            _refuse_unwritten(file.name, error)

    @functools.wraps(copy)
    def copy_whole(source: str, to: str, overwrite: bool = False) -> typing.Any:
        temporary = f"{to}.tmp"
        try:
            copied = copy(source, temporary, overwrite=True)
            manager.rename(temporary, to)
        except OSError as error:
            _refuse_unwritten(temporary, error)
        return copied

    checkpoint_utils._torch_persistent_save = save_once
    manager.copy = staticmethod(copy_whole)
