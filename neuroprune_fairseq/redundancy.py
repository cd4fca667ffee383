"""Kept importable where it was; the code is in :mod:`neuroprune_fairseq.method.redundancy`."""

from neuroprune_fairseq.method.redundancy import *  # noqa: F403
