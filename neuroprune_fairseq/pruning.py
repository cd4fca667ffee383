"""Kept importable where it was; the code is in :mod:`neuroprune_fairseq.method.pruning`."""

from neuroprune_fairseq.method.pruning import *  # noqa: F403
