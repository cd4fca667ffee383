"""NeuroPrune for fairseq: ``fairseq-train --user-dir neuroprune_fairseq``.

Importing this package registers its architectures, criterions and tasks with fairseq.
"""

from neuroprune_fairseq.plugin import compat

compat.check_environment()
compat.allow_fairseq_checkpoints()
compat.take_known_settings_only()
compat.refuse_unwritable_save_dirs()

from neuroprune_fairseq.compact import model  # noqa: E402, F401  (registers)
from neuroprune_fairseq.plugin import architectures, criterion, l1, task  # noqa: E402, F401
from neuroprune_fairseq.pruners import dsp, michel, voita  # noqa: E402, F401
