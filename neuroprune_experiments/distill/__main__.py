"""``python -m neuroprune_experiments.distill``, which scripts/distill.sh starts."""

from neuroprune_experiments.distill.command import main

main()
