"""Kept importable where it was; the code is in :mod:`neuroprune_fairseq.method.penalties`."""

from neuroprune_fairseq.method.penalties import *  # noqa: F403
