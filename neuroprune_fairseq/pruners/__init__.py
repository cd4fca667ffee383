"""The pruning methods: who has seen one has seen all. :mod:`.base` has the loop they act in."""

from dataclasses import dataclass

from neuroprune_fairseq.files.errors import check_choice
from neuroprune_fairseq.pruners.base import Pruner, Run
from neuroprune_fairseq.pruners.cofi import Cofi, CofiFlags
from neuroprune_fairseq.pruners.dsp import Dsp, DspFlags
from neuroprune_fairseq.pruners.michel import Michel, MichelFlags
from neuroprune_fairseq.pruners.neuroprune import NeuroPrune, NeuroPruneFlags
from neuroprune_fairseq.pruners.voita import Voita, VoitaFlags

PRUNERS = {"neuroprune": NeuroPrune, "dsp": Dsp, "voita": Voita, "michel": Michel, "cofi": Cofi}

__all__ = ["PRUNERS", "Pruner", "PrunerFlags", "Run", "make_pruner"]


@dataclass
class PrunerFlags(NeuroPruneFlags, DspFlags, VoitaFlags, MichelFlags, CofiFlags):
    """The flags of all methods; each reads its own."""


def make_pruner(name: str, flags: PrunerFlags) -> Pruner:
    """A method by the name that --pruner gives.

    Raises:
        SystemExit: one line, for an unknown name or flags that cannot be.
    """
    check_choice("--pruner", name, tuple(PRUNERS))
    return PRUNERS[name](flags)
