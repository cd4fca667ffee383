"""When a translation task may edit the model: the base of every task that prunes.

fairseq calls ``optimizer_step`` for every update, and the train iterator knows whether it
was the epoch's last. So the edit of an epoch runs after its last update and before its
validation and checkpoint; mid-epoch validation or a stop at --max-update never triggers it,
and --disable-validation does not prevent it.

Of several workers the first one's decisions hold for all, and it alone writes neuroprune.jsonl.
A run that is killed and started again with the same command is the same run (see resume.py).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from fairseq.logging import metrics
from omegaconf import II
from torch import nn

from neuroprune_fairseq.files import run_log
from neuroprune_fairseq.files.errors import refuse
from neuroprune_fairseq.method import sparsity
from neuroprune_fairseq.plugin import compat, resume, workers
from neuroprune_fairseq.plugin.guarded_task import check_finite
from neuroprune_fairseq.plugin.precision import (
    half_precision_state,
    master_weights,
    restore_half_precision_,
)
from neuroprune_fairseq.plugin.shrinking import ShrinkingConfig, ShrinkingTask

METERS = ("r_attn", "r_mlp", "heads_kept", "attn_sparsity", "mlp_sparsity", "total_sparsity")


@dataclass
class PruningTaskConfig(ShrinkingConfig):
    """What a pruning task reads of the run's other settings."""

    save_dir: str = II("checkpoint.save_dir")
    no_save_optimizer_state: bool = II("checkpoint.no_save_optimizer_state")
    restore_file: str = II("checkpoint.restore_file")
    finetune_from_model: Optional[str] = II("checkpoint.finetune_from_model")
    patience: int = II("checkpoint.patience")
    tpu: bool = II("common.tpu")
    ddp_backend: str = II("distributed_training.ddp_backend")
    use_bmuf: bool = II("optimization.use_bmuf")
    store_ema: bool = II("ema.store_ema")
    log_interval: int = II("common.log_interval")
    max_epoch: int = II("optimization.max_epoch")
    max_update: int = II("optimization.max_update")


class PruningTask(ShrinkingTask):
    """Translation that edits the model after updates and at the end of epochs.

    Subclasses override :meth:`start_`, :meth:`after_update_` and :meth:`at_epoch_end_`;
    when these run, ``self.model`` is the unwrapped model and ``self.optimizer`` fairseq's
    optimizer. What they need in a resumed run they give to :meth:`own_state` and get back
    from :meth:`restore_`.
    """

    trains_weights = True  # False: the optimizer's step is left out, all else goes on

    def __init__(self, cfg: PruningTaskConfig, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        self.model: Optional[nn.Module] = None
        self.num_updates = 0  # of the whole run, also where --reset-optimizer made fairseq forget
        self._updates_forgotten = 0
        self._restored: dict[str, Any] = {}
        self._criterion: Optional[nn.Module] = None
        self._train_iterator: Any = None
        self._epoch = 0
        self._started = self._updated = False  # in this epoch
        self._meters: dict[str, float] = {}

    # For subclasses.

    def start_(self) -> None:
        """Before the first batch of an epoch, also in a resumed run; parameters are in fp32."""

    def before_update_(self) -> None:
        """Before every optimizer step; the model holds the gradients of this update."""

    def after_update_(self) -> None:
        """After every optimizer step."""

    def at_epoch_end_(self) -> dict[str, Any]:
        """After the last update of an epoch. Returns entries for the epoch's JSON line."""
        return {}

    def train_batch(self, *args: Any, **kwargs: Any) -> tuple[Any, Any, dict[str, Any]]:
        """The forward and backward pass of a micro-batch, as fairseq's ``train_step``."""
        return super().train_step(*args, **kwargs)

    def own_state(self) -> dict[str, Any]:
        """What a resumed run needs: tensors and plain values."""
        return {}

    def restore_(self, state: dict[str, Any]) -> None:
        """Take over an :meth:`own_state`; it may hold other entries, too."""

    def follow_first_worker_(self) -> None:
        """Take over the first worker's weights, and so its decisions; all workers must call it."""
        with master_weights(self.optimizer):
            workers.follow_first_(self.model.parameters())

    def refuse_patience(self) -> None:
        """For runs that must come to their end, since only then heads are chosen."""
        if self.cfg.patience > 0:
            refuse("--patience could end the run before its heads are chosen; drop it")

    @classmethod
    def setup_task(cls, cfg, **kwargs):
        # The edits need all weights in every worker, the same in all.
        if cfg.ddp_backend in ("fully_sharded", "slowmo"):
            refuse(f"--ddp-backend {cfg.ddp_backend} cannot prune; use pytorch_ddp or legacy_ddp")
        return super().setup_task(cfg, **kwargs)

    # What the hooks below need to know about the run.

    def build_criterion(self, cfg, from_checkpoint=False):
        self._criterion = super().build_criterion(cfg, from_checkpoint)
        return self._criterion

    def build_model(self, cfg, from_checkpoint=False):
        if not from_checkpoint:  # a training run, which loads checkpoint_last.pt next
            compat.allow_fairseq_broadcasts()
            compat.write_checkpoints_whole()
            compat.remember_best_loss()
            if self.cfg.store_ema:
                compat.start_ema_from_weights()
            if workers.is_first():
                resume.rescue_last_checkpoint(self.cfg.save_dir)
            workers.wait_for_all()
            self._check_start()
        return super().build_model(cfg, from_checkpoint)

    def _check_start(self) -> None:
        if self.cfg.use_bmuf:
            refuse("--use-bmuf cannot prune; drop it")
        if self.cfg.tpu:
            refuse(
                "--tpu, which --bf16 implies for fairseq-train, is not supported; use --fp16 or "
                "--amp, or fairseq-hydra-train with common.bf16=true"
            )
        pretrained = self.cfg.finetune_from_model
        resume.check_start(self.cfg.save_dir, self.cfg.restore_file, pretrained)

    def get_batch_iterator(self, dataset, *args, epoch=1, **kwargs):
        if dataset is not self.datasets.get(self.cfg.train_subset):
            return super().get_batch_iterator(dataset, *args, epoch=epoch, **kwargs)
        rebuilt = kwargs.get("disable_iterator_cache") or kwargs.get("update_epoch_batch_itr")
        kept = self.can_reuse_epoch_itr(dataset) and not rebuilt
        # Batches that are kept must be those of a run that was never killed: epoch 1's.
        made_in = 1 if kept else epoch
        iterator = super().get_batch_iterator(dataset, *args, epoch=made_in, **kwargs)
        if not isinstance(iterator, resume.RunIterator):
            iterator = resume.RunIterator.of(iterator, epoch)
        if kept:
            self.dataset_to_epoch_iter[dataset] = iterator
        self._train_iterator = iterator
        return iterator

    # When something happens.

    def begin_epoch(self, epoch, model):
        super().begin_epoch(epoch, model)
        self.model = model
        if self._updated:  # the last chance for the epoch before
            self._end_epoch()
            self._cut_()
        self._epoch = epoch
        self._updated = self._train_iterator.iterations_in_epoch > 0  # resumed in its middle
        self._started = False

    def train_step(self, sample, model, criterion, optimizer, update_num, *args, **kwargs):
        if self.optimizer is None:
            self._go_on_(optimizer, update_num)
        if not self._started:
            self._start_epoch_()
        self.num_updates = self._updates_forgotten + update_num
        return self.train_batch(sample, model, criterion, optimizer, update_num, *args, **kwargs)

    def optimizer_step(self, optimizer, model, update_num):
        self.before_update_()
        if self.trains_weights:
            super().optimizer_step(optimizer, model, update_num)
        self.num_updates += 1
        self._updated = True
        self.after_update_()
        if self._train_iterator.end_of_epoch():
            self._end_epoch()
            self._cut_()
        elif self.num_updates % self.cfg.log_interval == 0:
            self._measure()

    def begin_valid_epoch(self, epoch, model):
        super().begin_valid_epoch(epoch, model)
        if self._end_epoch_if_missed():
            self._cut_()
        self.follow_first_worker_()

    def get_checkpoint_dict(self):
        # fairseq asks for this just before it saves, with or without validation; it asks the
        # first worker only, so the workers can't exchange anything here.
        self._end_epoch_if_missed()
        state = {"num_updates": self.num_updates, "early_stopping": dict(resume.early_stopping())}
        if not self.cfg.no_save_optimizer_state:
            state.update(half_precision_state(self.optimizer))
        own = {type(self).__name__: {**state, **self.own_state()}}
        return {**super().get_checkpoint_dict(), **own}

    def set_checkpoint_dict(self, state):
        self._restored = state
        resume.early_stopping().update(state.get("early_stopping", {}))
        self.restore_(state)

    def reduce_metrics(self, logging_outputs, criterion):
        super().reduce_metrics(logging_outputs, criterion)
        for name, value in self._meters.items():
            metrics.log_scalar(name, value, weight=0, round=4)  # weight 0: the latest value

    # What happens.

    def _go_on_(self, optimizer: Any, update_num: int) -> None:
        """At the first batch of this process: go on where the checkpoint left off."""
        resume.leave_if_finished(update_num, self.cfg.max_update, self.cfg.patience)
        self.optimizer = optimizer
        restore_half_precision_(optimizer, self._restored)
        self._updates_forgotten = self._restored.get("num_updates", update_num) - update_num
        self._restored = {}

    def _start_epoch_(self) -> None:
        """At the first batch of an epoch in this process."""
        self._started = True
        self.follow_first_worker_()
        with master_weights(self.optimizer):
            self.start_()

    def _end_epoch_if_missed(self) -> bool:
        """For an epoch whose last batch made no update (fp16 overflow, out of memory)."""
        missed = self._updated and self._train_iterator.end_of_epoch()
        if missed:
            self._end_epoch()
        return missed

    def _cut_(self) -> None:
        """With --shrink cut what was pruned out of the model; all workers must call it."""
        if self.cfg.shrink:
            self.follow_first_worker_()
            self.shrink_()

    def _end_epoch(self) -> None:
        self._updated = False
        check_finite(self.model, self.num_updates)
        entries = self.at_epoch_end_()
        if "modules" in entries:
            entries["modules"] = self.in_original_numbers(entries["modules"])
        self._measure()
        if workers.is_first():
            record = {"epoch": self._epoch, "num_updates": self.num_updates, **self._meters}
            path = Path(self.cfg.save_dir) / run_log.FILE_NAME
            run_log.write_epoch(path, {**record, **entries})

    def _measure(self) -> None:
        """Take the meters from the weights as they are now."""
        near_zero = getattr(self._criterion, "near_zero", 0.0)
        found = sparsity.measure(self.model, tolerance=near_zero)
        if hasattr(self._criterion, "penalty_values"):
            found.update(self._criterion.penalty_values(self.model))
        self._meters = {name: found[name] for name in METERS if name in found}
