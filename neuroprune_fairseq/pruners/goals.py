"""What a model may cost in the end, as a user says it.

No postponed annotations: fairseq reads the flags' types off the dataclass.
"""

from dataclasses import dataclass, field
from typing import Optional

from neuroprune_fairseq.files.errors import refuse
from neuroprune_fairseq.pruners.parts import PARTS
from neuroprune_fairseq.pruners.schedule import ScheduleFlags


@dataclass
class BudgetFlags(ScheduleFlags):
    """What the model may cost in the end."""

    target_speedup: Optional[str] = field(
        default=None,
        metadata={
            "help": "X: end with a model that is X times as fast as the one that training began "
            "with, by --cost-table, without it by floating-point operations; 1.5,2,3 makes a "
            "family: each is reached in turn and kept as checkpoint_speedup_X.pt"
        },
    )
    target_flops: Optional[str] = field(
        default=None,
        metadata={
            "help": "R: end with this share of the floating-point operations; 0.7,0.5 as above"
        },
    )
    target_parameters: Optional[str] = field(
        default=None,
        metadata={"help": "R: end with this share of all parameters; 0.7,0.5 as above"},
    )
    cost_table: Optional[str] = field(
        default=None,
        metadata={"help": "FILE that neuroprune-profile wrote: what --target-speedup counts by"},
    )
    target_parts: str = field(
        default=",".join(PARTS),
        metadata={"help": f"what may go for these three: some of {', '.join(PARTS)}"},
    )


@dataclass(frozen=True)
class Goal:
    """One cost that was asked for."""

    flag: str
    text: str
    share: float  # of the cost that the run began with

    @property
    def is_speedup(self) -> bool:
        """Whether it was given as a factor."""
        return self.flag == "--target-speedup"

    @property
    def name(self) -> str:
        """Of its checkpoint: "speedup_2"."""
        return f"{self.flag.removeprefix('--target-')}_{self.text}"


def _goals(flag: str, text: str) -> list[Goal]:
    """What a flag asks for, in order."""
    speedup = flag == "--target-speedup"
    example = "2 or 1.5,2,3" if speedup else "0.5 or 0.7,0.5"
    what = "factors above 1" if speedup else "shares between 0 and 1"
    try:
        values = [float(word) for word in text.split(",")]
        shares = [1 / value if speedup else value for value in values]
    except (ValueError, ZeroDivisionError):
        refuse(f"{flag} {text} must be numbers, such as {example}")
    if not all(0 < share < 1 for share in shares):
        refuse(f"{flag} {text} must be {what}, such as {example}")
    if any(later >= earlier for earlier, later in zip(shares, shares[1:])):
        refuse(f"{flag} {text} must be in order, the largest model first, such as {example}")
    return [Goal(flag, word.strip(), share) for word, share in zip(text.split(","), shares)]


def asked_goals(flags: BudgetFlags) -> list[Goal]:
    """The costs that were asked for, in order; empty where none was.

    Raises:
        SystemExit: one line for one that cannot be.
    """
    asked = {
        "--target-speedup": flags.target_speedup,
        "--target-flops": flags.target_flops,
        "--target-parameters": flags.target_parameters,
    }
    given = {flag: text for flag, text in asked.items() if text is not None}
    if len(given) > 1:
        refuse(f"{', '.join(given)}: one budget at a time; drop all but one")
    goals = [goal for flag, text in given.items() for goal in _goals(flag, text)]
    if len(goals) > 1 and flags.target_update is not None:
        refuse(f"--target-update is for one model, {goals[0].flag} names more; drop it")
    if flags.cost_table is not None and flags.target_speedup is None:
        refuse("--cost-table says what --target-speedup counts by; name that, too")
    unknown = set(flags.target_parts.split(",")) - set(PARTS)
    if unknown or not flags.target_parts:
        refuse(f"--target-parts {flags.target_parts} must be some of {','.join(PARTS)}")
    return goals
