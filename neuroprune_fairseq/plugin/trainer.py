"""Making the model of a run compact while it trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuroprune_fairseq.compact.cutting import Plan, cut_
from neuroprune_fairseq.compact.optimizer import (
    cut_like_parameters,
    cut_optimizer_state,
    trained_parameters,
)
from neuroprune_fairseq.compact.sizes import head_numbers, per_layer_config, set_sizes_
from neuroprune_fairseq.compact.state import check_settings
from neuroprune_fairseq.files.errors import refuse
from neuroprune_fairseq.plugin.precision import master_copies

# Optimizers whose moments have the shapes of the weights.
ELEMENTWISE = ("adam", "adamax", "adadelta", "adagrad", "nag", "sgd")


def check_run(cfg: Any) -> None:
    """Refuse the settings of a run that may prune, but whose model cannot be cut in training.

    Args:
        cfg: of the trainer.

    Raises:
        SystemExit: one line that names the flag that is in the way.
    """
    distributed, common, optimizer = cfg.distributed_training, cfg.common, cfg.optimizer._name
    excluded = {
        "--store-ema": cfg.ema.store_ema,  # an average of what is zero only now
        "--zero-sharding": distributed.zero_sharding != "none",
        "--pipeline-model-parallel": distributed.pipeline_model_parallel,
        "--model-parallel-size": common.model_parallel_size > 1,
        "--quantization-config-path": common.quantization_config_path is not None,
    }
    for flag, is_set in excluded.items():
        if is_set:
            refuse(f"--compact excludes {flag}")
    if optimizer not in ELEMENTWISE:
        refuse(f"--compact needs --optimizer {', '.join(ELEMENTWISE[:-1])} or {ELEMENTWISE[-1]}")
    check_settings(cfg.model, "--compact")


def _cut_master_weights(optimizer: Any, model: torch.nn.Module, plan: Plan) -> dict[str, Tensor]:
    """The fp32 copies of half-precision training, cut: by the parameter's name; else empty."""
    copies = {id(parameter): master for parameter, master in master_copies(optimizer)}
    parameters = trained_parameters(model)
    masters = {name: copies[id(p)] for name, p in parameters.items() if id(p) in copies}
    return cut_like_parameters(masters, model, plan) if masters else {}


def compact_trainer_(trainer: Any, plan: Plan) -> None:
    """Cut a trainer's model and all that depends on its sizes, in place, between two updates.

    Args:
        trainer: fairseq's. Its model's parameters, the optimizer's moments and fp32 master
            copies are cut, the data-parallel wrapper is made anew, the learning rate stays;
            the settings that it writes into checkpoints become those of a compact model.
        plan: what is kept.
    """
    model, old = trainer.get_model(), trainer.optimizer
    state = cut_optimizer_state(old.state_dict(), model, plan)
    masters = _cut_master_weights(old, model, plan)
    heads = head_numbers(trainer.cfg.model, model, plan)
    schedule = trainer.lr_scheduler.state_dict()
    cut_(model, plan)
    set_sizes_(trainer.cfg.model, per_layer_config(model, heads))
    # As fairseq resumes a run.
    trainer.reinitialize()
    trainer.lr_scheduler.load_state_dict(schedule)
    trainer.optimizer.load_state_dict(state)
    trainer.lr_step_update()
    for (_, new), master in zip(master_copies(trainer.optimizer), masters.values()):
        new.copy_(master)
    for name in ("scaler", "_grad_scaler"):  # of losses, with its counts: --fp16, --amp
        if name in vars(old):
            setattr(trainer.optimizer, name, getattr(old, name))
