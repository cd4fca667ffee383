"""Flags that tasks and criterions gain, each in one place: of the methods, and of the run.

No postponed annotations: fairseq reads the flags' types off the dataclass.
"""

from dataclasses import dataclass, field
from typing import Any, Optional

from omegaconf import II

from neuroprune_fairseq.plugin.distillation import DistillationFlags
from neuroprune_fairseq.pruners import PRUNERS, PrunerFlags
from neuroprune_fairseq.pruners.penalties import PenaltyFlags


@dataclass
class CriterionFlags(PenaltyFlags, DistillationFlags):
    """Flags of every criterion that is registered."""


@dataclass
class TaskFlags(PrunerFlags):
    """Flags of every task that prunes, and what it reads of the run's other settings."""

    pruner: str = field(
        default="neuroprune",
        metadata={"help": f"the method that prunes: {', '.join(PRUNERS)}"},
    )
    compact: bool = field(
        default=False,
        metadata={
            "help": "at the end of an epoch cut pruned heads and neurons out of the model, so that "
            "the following epochs are faster; checkpoints are then compact ones",
            "argparse_alias": "--shrink",
        },
    )
    num_workers: int = II("dataset.num_workers")
    train_subset: str = II("dataset.train_subset")
    save_dir: str = II("checkpoint.save_dir")
    no_save_optimizer_state: bool = II("checkpoint.no_save_optimizer_state")
    restore_file: str = II("checkpoint.restore_file")
    finetune_from_model: Optional[str] = II("checkpoint.finetune_from_model")
    reset_optimizer: bool = II("checkpoint.reset_optimizer")
    reset_lr_scheduler: bool = II("checkpoint.reset_lr_scheduler")
    reset_meters: bool = II("checkpoint.reset_meters")
    reset_dataloader: bool = II("checkpoint.reset_dataloader")
    patience: int = II("checkpoint.patience")
    tpu: bool = II("common.tpu")
    cpu: bool = II("common.cpu")
    fp16: bool = II("common.fp16")
    fp16_no_flatten_grads: bool = II("common.fp16_no_flatten_grads")
    seed: int = II("common.seed")
    log_interval: int = II("common.log_interval")
    memory_efficient_fp16: bool = II("common.memory_efficient_fp16")
    memory_efficient_bf16: bool = II("common.memory_efficient_bf16")
    ddp_backend: str = II("distributed_training.ddp_backend")
    use_bmuf: bool = II("optimization.use_bmuf")
    max_epoch: int = II("optimization.max_epoch")
    max_update: int = II("optimization.max_update")
    update_freq: Any = II("optimization.update_freq")
    store_ema: bool = II("ema.store_ema")
