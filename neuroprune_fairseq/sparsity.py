"""Kept importable where it was; the code is in :mod:`neuroprune_fairseq.method.sparsity`."""

from neuroprune_fairseq.method.sparsity import *  # noqa: F403
