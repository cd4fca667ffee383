"""``python -m neuroprune_experiments.frontier``, the same as ``neuroprune-frontier``."""

from neuroprune_experiments.frontier.command import main

main()
