"""``python -m neuroprune_fairseq.frontier``, the same as ``neuroprune-frontier``."""

from neuroprune_fairseq.frontier.command import main

main()
