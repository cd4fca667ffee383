"""The training loop of :mod:`neuroprune_fairseq.pruners.base`, as a task's hooks walk through it.

fairseq calls ``optimizer_step`` for every update, and the train iterator knows whether it was the
epoch's last. So the edit of an epoch runs after its last update and before its validation and
checkpoint; mid-epoch validation or a stop at --max-update never triggers it, and
--disable-validation does not prevent it.

Of several workers the first one's decisions hold for all, and it alone writes neuroprune.jsonl. A
run that is killed and started again with the same command is the same run (see resume.py).
"""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Optional

from torch import nn

from neuroprune_fairseq.files import run_log
from neuroprune_fairseq.files.errors import refuse, refusing
from neuroprune_fairseq.method import sparsity
from neuroprune_fairseq.method.zero_mask import ZeroMask
from neuroprune_fairseq.plugin import compacting, guards, resume, workers
from neuroprune_fairseq.plugin.batch_loss import loss_of_batch
from neuroprune_fairseq.plugin.precision import (
    half_precision_state,
    loss_scale,
    master_weights,
    restore_half_precision_,
)
from neuroprune_fairseq.pruners import Run, make_pruner
from neuroprune_fairseq.pruners.base import AS_BEGUN
from neuroprune_fairseq.structure import all_attention

_DAMAGED = "the pruner's state in the checkpoint is damaged; take another checkpoint"
METERS = ("r_attn", "r_mlp", "heads_kept", "attn_sparsity", "mlp_sparsity", "total_sparsity")


def epoch_ends(
    batches: int, update_freq: Sequence[int], max_epoch: int, max_update: int
) -> list[int]:
    """The updates that are done when each epoch of a run ends, from fairseq's settings.

    Args:
        batches: batches per epoch and worker.
        update_freq: --update-freq, one entry per epoch, the last for all that follow.
        max_epoch: --max-epoch, 0 for none.
        max_update: --max-update, 0 for none.

    Returns:
        One number per epoch, the last the length of the run; empty where nothing limits it.
    """
    if max_epoch <= 0 and max_update <= 0:
        return []
    limit, ends = max_update if max_update > 0 else sys.maxsize, [0]
    for epoch in range(max_epoch) if max_epoch > 0 else count():
        freq = update_freq[min(epoch, len(update_freq) - 1)]
        ends.append(min(limit, ends[-1] + max(1, -(-batches // freq))))
        if ends[-1] == limit:
            break
    return ends[1:]


class Loop:
    """One run: the pruner, what it acts on, and what is held at zero.

    The methods stand in the order in which a run comes to them.
    """

    def __init__(self, settings: Any) -> None:
        """Before anything is built.

        Args:
            settings: with plugin.flags.TaskFlags.
        """
        self.settings = settings
        self.pruner = make_pruner(settings.pruner, settings)
        settings.compact = settings.compact or self.pruner.always_compact
        self.run: Any = None  # a Run from the first epoch on
        self.criterion: Optional[nn.Module] = None
        self.iterator: Any = None  # over the training batches
        self.optimizer: Any = None
        self.trainer: Any = None  # with --compact
        self.meters: dict[str, Any] = {}
        self._zeros: Optional[ZeroMask] = None
        self._holds_weights = self.pruner.holds_weights
        self._restored: dict[str, Any] = {}
        self._updates_forgotten = 0
        self._started = self._updated = False  # in this epoch
        self._resumed = False  # and nothing done since
        self._claim: Any = None

    @property
    def penalties(self) -> Any:
        """The criterion's, None where it has none."""
        return getattr(self.criterion, "penalties", None)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        if state.get("pruner") != self.settings.pruner:
            refuse(
                f"--pruner {self.settings.pruner}: the checkpoint was written with --pruner "
                f"{state.get('pruner')}; {AS_BEGUN}"
            )
        self._restored = state
        with refusing(_DAMAGED):
            self._holds_weights |= state["holds_weights"]
            resume.early_stopping().update(state["early_stopping"])
            self.pruner.load_state_dict(state["state"])

    def begin_epoch(self, epoch: int, model: nn.Module) -> None:
        """An epoch begins, also one that is resumed in its middle."""
        settings = self.settings
        if self.run is None:
            if not all_attention(model):
                refuse("--arch: the model has no attention modules to prune; name a Transformer")
            self.run = Run(model, settings.seed, settings.max_epoch, settings.max_update)
            if workers.is_first():
                self._claim = guards.claim(Path(settings.save_dir))
        if self._updated:  # the last chance for the epoch before
            self._end_epoch_()
            self._compact_()
        self.run.epoch = epoch
        self._updated = self.iterator.iterations_in_epoch > 0
        self._started = False

    def before_batch(self, optimizer: Any, update_num: int) -> None:
        """Before a micro-batch; ``update_num`` by fairseq's count."""
        run = self.run
        if self.optimizer is None:
            self._go_on_(optimizer, update_num)
        run.num_updates = self._updates_forgotten + update_num
        if not self._started:
            self._start_epoch_()
        # fairseq clears all gradients when an update begins, also after one that it dropped
        # (overflow, out of memory), and tells nobody else.
        run.begins_update = all(parameter.grad is None for parameter in run.model.parameters())
        worker, number = workers.position()
        run.place = worker if run.begins_update else run.place + number
        self.pruner.before_batch(run)

    def after_batch(self, optimizer: Any, sample: Any, sample_size: Any) -> None:
        """After its backward pass; ``sample_size`` is 0 for a dummy batch."""
        self.run.loss_scale = loss_scale(optimizer)
        self.run.loss_of_batch = partial(loss_of_batch, self.run.model, self.criterion, sample)
        self.pruner.after_batch(self.run, sample_size)
        self.run.loss_of_batch = None

    def before_step(self) -> None:
        """Before an optimizer step."""
        self.pruner.before_step(self.run)

    def after_step(self) -> None:
        """After an optimizer step, or where the pruner left it out."""
        run, penalties = self.run, self.penalties
        run.num_updates += 1
        self._updated = True
        with master_weights(self.optimizer):
            if penalties and penalties.makes_steps:
                penalties.proximal_step_(run.model, self.optimizer.get_lr())
            if self._zeros:
                self._zeros.hold_()
            if self.pruner.after_step(run):
                workers.follow_first_(run.model.parameters())
                self._hold_zeros()
        self._release_penalties()
        stops = self.pruner.needs_whole_run and run.num_updates == run.length
        if stops or self.iterator.end_of_epoch():
            self._end_epoch_()
            self._compact_()
        elif run.num_updates % self.settings.log_interval == 0:
            self._measure()

    def before_validation(self) -> None:
        """Before a validation, of an epoch or in its middle."""
        if self._end_epoch_if_missed_():
            self._compact_()
        self._follow_first_worker_()
        self.pruner.before_validation(self.run)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to be the same run; fairseq asks for it just before it saves.

        It asks the first worker only, so the workers cannot exchange anything here.
        """
        guards.check_finite(self.run.model, self.run.num_updates)
        self._end_epoch_if_missed_()
        state = {
            "num_updates": self.run.num_updates,
            "early_stopping": dict(resume.early_stopping()),
            "holds_weights": self._holds_weights,
            "pruner": self.settings.pruner,
            "state": self.pruner.state_dict(),
        }
        if not self.settings.no_save_optimizer_state:
            state.update(half_precision_state(self.optimizer))
        return state

    # What happens.

    def _go_on_(self, optimizer: Any, update_num: int) -> None:
        """At the first batch of this process: go on where the checkpoint left off."""
        resume.leave_if_finished(update_num, self.settings.max_update, self.settings.patience)
        self.optimizer = optimizer
        self._resumed = bool(self._restored)
        restore_half_precision_(optimizer, self._restored)
        self._updates_forgotten = self._restored.get("num_updates", update_num) - update_num
        self._restored = {}

    def _start_epoch_(self) -> None:
        """At the first batch of an epoch in this process."""
        run, settings = self.run, self.settings
        self._started = True
        if self.pruner.needs_whole_run:
            guards.check_whole_run(settings)
        if self.penalties and self.penalties.makes_steps:
            guards.check_precision(settings)
        freqs, shards = list(settings.update_freq), self.iterator.num_shards
        limits = (settings.max_epoch, settings.max_update)
        run.epoch_ends = epoch_ends(len(self.iterator), freqs, *limits)
        run.pace = (*limits, *(shards * freq for freq in freqs))
        device = next(run.model.parameters()).device
        run.sum_over_workers = partial(workers.sum_over_workers, device=device)
        self._follow_first_worker_()
        with master_weights(self.optimizer):
            with refusing(_DAMAGED) if self._resumed else nullcontext():
                self.pruner.start(run)
            self._hold_zeros()
        self._resumed = False
        self._release_penalties()

    def _end_epoch_if_missed_(self) -> bool:
        """For an epoch whose last batch made no update (fp16 overflow, out of memory)."""
        missed = self._updated and self.iterator.end_of_epoch()
        if missed:
            self._end_epoch_()
        return missed

    def _end_epoch_(self) -> None:
        run = self.run
        self._updated = False
        guards.check_finite(run.model, run.num_updates)
        with master_weights(self.optimizer):
            entries = self.pruner.end_epoch(run)
            self._hold_zeros()
        self._measure()
        if workers.is_first():
            if "modules" in entries and self.trainer is not None:
                entries["modules"] = compacting.in_original_numbers(
                    self.trainer, entries["modules"]
                )
            record = {"epoch": run.epoch, "num_updates": run.num_updates, **self.meters, **entries}
            run_log.write_epoch(Path(self.settings.save_dir) / run_log.FILE_NAME, record)

    def _compact_(self) -> None:
        """With --compact cut what was pruned out of the model; all workers must call it."""
        if not self.settings.compact:
            return
        self._follow_first_worker_()
        pruner = self.pruner
        if pruner.may_cut and compacting.compact_run_(self.trainer, pruner.before_cut):
            self.optimizer = self.trainer.optimizer
            self._hold_zeros()
        if (name := pruner.kept_as(self.run)) and workers.is_first():
            compacting.keep_checkpoint(self.trainer, Path(self.settings.save_dir), name)

    def _follow_first_worker_(self) -> None:
        """Take over the first worker's weights, and so its decisions; all workers must call it."""
        with master_weights(self.optimizer):
            workers.follow_first_(self.run.model.parameters())

    def _hold_zeros(self) -> None:
        self._zeros = ZeroMask(self.run.model, self._holds_weights)

    def _release_penalties(self) -> None:
        if self.penalties:
            self.penalties.released = self.pruner.ends_penalties

    def _measure(self) -> None:
        """Take the meters from the weights as they are now."""
        penalties, model = self.penalties, self.run.model
        found = sparsity.measure(model, tolerance=penalties.near_zero if penalties else 0.0)
        if penalties:
            found.update(penalties.values(model))
        self.meters = {name: found[name] for name in METERS if name in found}
