"""NeuroPrune for fairseq: ``fairseq-train --user-dir neuroprune_fairseq``.

Importing this package registers its architectures, criterions and tasks with fairseq.
"""

from neuroprune_fairseq.plugin import compat

__version__ = "0.1.0"

compat.check_environment()
compat.allow_fairseq_checkpoints()
compat.take_known_settings_only()
compat.refuse_unwritable_save_dirs()
compat.refuse_what_does_not_belong_together()
compat.give_tasks_what_they_lack()
compat.seed_noise_of_denoising()
compat.build_models_in_their_sizes()

from neuroprune_fairseq.plugin import architectures  # noqa: E402, F401  (registers)
from neuroprune_fairseq.plugin.registration import prunable_criterion, prunable_task  # noqa: E402

__all__ = ["prunable_criterion", "prunable_task"]
