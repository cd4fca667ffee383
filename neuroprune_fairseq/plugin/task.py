"""fairseq's translation task with NeuroPrune: Algorithm 1, and targets beyond the paper."""

# ruff: noqa: UP045  (fairseq reads its flags' types off the dataclass and knows no X | None)

from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.tasks import register_task
from omegaconf import II

from neuroprune_fairseq.files.errors import check_choice, refuse
from neuroprune_fairseq.method.proximal import proximal_step_
from neuroprune_fairseq.method.pruning import (
    MERGES,
    Pruned,
    eliminate_redundant_heads,
    prune_idle_neurons_,
)
from neuroprune_fairseq.method.targets import Schedule
from neuroprune_fairseq.plugin import workers
from neuroprune_fairseq.plugin.precision import master_weights
from neuroprune_fairseq.plugin.pruning_task import PruningTask, PruningTaskConfig
from neuroprune_fairseq.pruners.target_controller import TargetController, Targets, total_updates


@dataclass
class TranslationNeuropruneConfig(PruningTaskConfig):
    """Flags of the task."""

    head_distance_threshold: Optional[float] = field(
        default=None,
        metadata={
            "help": "theta: after every epoch, heads whose Q, K, V weights differ by at most "
            "this (largest absolute difference) are similar, and dominated ones are merged "
            "and removed (default: no head is removed)"
        },
    )
    head_merge: str = field(
        default="out_proj",
        metadata={
            "help": "what a removed head leaves to the head that replaces it: out_proj adds its "
            "out_proj columns, fc1 its columns of fc1 (the paper's wording), none nothing"
        },
    )
    target_heads: Optional[int] = field(
        default=None,
        metadata={"help": "end with exactly this many heads of the whole model"},
    )
    target_attn_sparsity: Optional[float] = field(
        default=None, metadata={"help": "share of zeros among the q, k, v weights to end with"}
    )
    target_mlp_sparsity: Optional[float] = field(
        default=None, metadata={"help": "share of zeros among the fc1, fc2 weights to end with"}
    )
    target_sparsity: Optional[float] = field(
        default=None, metadata={"help": "share of zeros among all of these weights to end with"}
    )
    target_update: Optional[int] = field(
        default=None,
        metadata={
            "help": "update at which the targets are reached; from then on zeros are held and the "
            "rest trains on without penalty (default: two thirds of the run)"
        },
    )
    target_interval: int = field(
        default=10, metadata={"help": "updates between two steps towards the targets"}
    )
    head_criterion: str = field(
        default="both",
        metadata={
            "help": "which heads go to reach --target-heads: redundancy (the closest first, as in "
            "the paper), importance (the least important to the loss first), both (importance "
            "scaled by the distance to the nearest other head)"
        },
    )
    update_freq: Any = II("optimization.update_freq")
    memory_efficient_fp16: bool = II("common.memory_efficient_fp16")
    memory_efficient_bf16: bool = II("common.memory_efficient_bf16")


@register_task("translation_neuroprune", dataclass=TranslationNeuropruneConfig)
class TranslationNeuropruneTask(PruningTask):
    """Translation with NeuroPrune's head pruning, and its targets if there are any.

    The penalties are the criterion's; its proximal solver acts here, after the optimizer.
    """

    makes_proximal_steps = True

    def __init__(self, cfg: TranslationNeuropruneConfig, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        threshold = cfg.head_distance_threshold
        if threshold is not None and not threshold >= 0:
            refuse(f"--head-distance-threshold {threshold} is not a distance; it must be >= 0")
        check_choice("--head-merge", cfg.head_merge, MERGES)
        self._targets = Targets(
            heads=cfg.target_heads,
            attn=cfg.target_attn_sparsity,
            mlp=cfg.target_mlp_sparsity,
            total=cfg.target_sparsity,
            head_criterion=cfg.head_criterion,
            merge=cfg.head_merge,
        )
        if cfg.shrink and cfg.head_merge == "fc1":
            refuse("--shrink excludes --head-merge fc1, which needs all heads in their places")
        if threshold is not None and self._targets.heads is not None:
            refuse("--target-heads finds the threshold itself; drop --head-distance-threshold")
        self._controller: Optional[TargetController] = None
        self._controller_state: dict[str, Any] = {}
        self._pruned: Optional[Pruned] = None

    def start_(self) -> None:
        self._pruned = Pruned(self.model)
        half = self.cfg.memory_efficient_fp16 or self.cfg.memory_efficient_bf16
        if half and getattr(self._criterion, "shrinks", False):
            refuse(
                "--penalty-solver proximal needs fp32 weights, its steps are too small for others; "
                "use --fp16, --bf16 or --amp in place of --memory-efficient-fp16 or -bf16"
            )
        if self._targets:
            self.refuse_patience()
            if self._controller is None:
                self._targets.check(self.model)
                self._controller = TargetController(
                    self._targets, self._schedule(), self._controller_state
                )
                self._controller_state = {}
            self._controller.start_(self.model)
            self._release_when_finished()

    def _schedule(self) -> Schedule:
        """From a tenth of the run to --target-update, by default two thirds of it.

        A resumed run keeps the schedule that it began with, unless it now has more or fewer
        updates to go.
        """
        if self._controller_state.get("batches") == self._batches():
            return Schedule(**self._controller_state["schedule"])
        length = total_updates(
            len(self._train_iterator),
            list(self.cfg.update_freq),
            self.cfg.max_epoch,
            self.cfg.max_update,
        )
        if not length:
            refuse("targets need --max-epoch or --max-update: when must they be reached?")
        end = self.cfg.target_update if self.cfg.target_update else 2 * length // 3
        if not 1 <= end <= length:
            refuse(f"--target-update {end} must be within the run's {length} updates")
        return Schedule(min(length // 10, end - 1), end, max(1, self.cfg.target_interval))

    def _batches(self) -> list[int]:
        """What the number of updates depends on, apart from the corpus."""
        shards = self._train_iterator.num_shards
        flags = (self.cfg.max_epoch, self.cfg.max_update, self.cfg.target_update or 0)
        return [*flags, *(shards * freq for freq in self.cfg.update_freq)]

    def before_update_(self) -> None:
        if self._controller:
            self._controller.before_update_(self.model)

    def after_update_(self) -> None:
        shrinks = getattr(self._criterion, "shrinks", False)
        if not (shrinks or self._pruned or self._controller):
            return
        with master_weights(self.optimizer):
            if shrinks:
                self._shrink_()
            if self._pruned:
                self._pruned.zero_()
            if self._controller and self._controller.after_update_(self.model, self.num_updates):
                workers.follow_first_(self.model.parameters())
                self._controller.hold_(self.model)
                self._pruned = Pruned(self.model)
        if self._controller:
            self._release_when_finished()

    def _release_when_finished(self) -> None:
        """Drop the penalties once the targets are reached; also where a run is resumed."""
        if self._controller.finished and hasattr(self._criterion, "release"):
            self._criterion.release()

    def _shrink_(self) -> None:
        """The proximal solver's step for the penalties."""
        proximal_step_(
            self.model,
            self.optimizer.get_lr(),
            self._criterion.attn_penalty_weight,
            self._criterion.mlp_penalty_weight,
            self._criterion.near_zero,
        )

    def at_epoch_end_(self) -> dict[str, Any]:
        if self._controller is None or not self._targets.sparsities:
            with master_weights(self.optimizer):
                prune_idle_neurons_(self.model)
        if self._controller:
            return {"modules": self._controller.epoch_records(self.model)}
        if self.cfg.head_distance_threshold is None:
            return {}
        with master_weights(self.optimizer):
            modules = eliminate_redundant_heads(
                self.model, self.cfg.head_distance_threshold, self.cfg.head_merge
            )
        self._pruned = Pruned(self.model)
        return {"modules": modules}

    def before_shrink_(self, plan):
        if self._controller:
            self._controller.before_shrink_(self.model, plan)

    def after_shrink_(self):
        self._pruned = Pruned(self.model)
        if self._controller:
            self._controller.hold_(self.model)

    def own_state(self):
        if self._controller is None:
            return {}
        return {**self._controller.state_dict(), "batches": self._batches()}

    def restore_(self, state):
        self._controller_state = state
