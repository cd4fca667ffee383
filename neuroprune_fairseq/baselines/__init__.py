"""The methods that NeuroPrune is compared with, as fairseq tasks and criterions.

All head-pruning baselines share one gate mechanism (:mod:`.gates`) and one life cycle
(:mod:`.gated_task`); what they leave behind is a plain fairseq checkpoint.
"""

from neuroprune_fairseq.baselines import dsp, l1, michel, voita  # noqa: F401  (they register)
