"""What today's torch and Python need so that fairseq runs, and runs safely.

The one place for version checks and for workarounds of fairseq; each has its reason.
"""

from neuroprune_fairseq.plugin.compat.environment import check_environment, check_version
from neuroprune_fairseq.plugin.compat.loading import (
    allow_fairseq_broadcasts,
    allow_fairseq_checkpoints,
    build_models_in_their_sizes,
    remember_best_loss,
    start_ema_from_weights,
    take_known_settings_only,
)
from neuroprune_fairseq.plugin.compat.tasks import (
    give_tasks_what_they_lack,
    seed_noise_of_denoising,
    tell_tasks_their_trainer,
)
from neuroprune_fairseq.plugin.compat.training import (
    make_meters_plain_,
    refuse_unwritable_save_dirs,
    refuse_what_does_not_belong_together,
    write_checkpoints_whole,
)

__all__ = [
    "check_version",
    "check_environment",
    "allow_fairseq_checkpoints",
    "take_known_settings_only",
    "build_models_in_their_sizes",
    "allow_fairseq_broadcasts",
    "start_ema_from_weights",
    "remember_best_loss",
    "give_tasks_what_they_lack",
    "seed_noise_of_denoising",
    "make_meters_plain_",
    "tell_tasks_their_trainer",
    "refuse_what_does_not_belong_together",
    "refuse_unwritable_save_dirs",
    "write_checkpoints_whole",
]
