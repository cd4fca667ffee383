"""NeuroPrune for fairseq: ``fairseq-train --user-dir neuroprune_fairseq``.

Importing this package registers its architectures, criterions and tasks with fairseq.
"""

from neuroprune_fairseq.plugin import compat

compat.check_environment()
compat.allow_fairseq_checkpoints()
compat.take_known_settings_only()
compat.refuse_unwritable_save_dirs()
compat.build_models_in_their_sizes()

from neuroprune_fairseq.plugin import (  # noqa: E402
    architectures,  # noqa: F401  (registers)
    compat_tasks,
)
from neuroprune_fairseq.plugin.registration import prunable_criterion, prunable_task  # noqa: E402

compat_tasks.give_tasks_what_they_lack()
compat_tasks.seed_noise_of_denoising()

__all__ = ["prunable_criterion", "prunable_task"]
