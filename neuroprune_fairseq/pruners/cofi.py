"""CoFi: masks on heads, neurons and sublayers, learnt together to a sparsity (Xia et al. 2022)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune_fairseq.files.errors import refuse
from neuroprune_fairseq.method.sparsity import full_sizes
from neuroprune_fairseq.pruners.base import Run, SparsityTargetFlags
from neuroprune_fairseq.pruners.gated import Gated
from neuroprune_fairseq.pruners.gates import Gates, living_heads, living_neurons, part_numbers
from neuroprune_fairseq.pruners.hard_concrete import (
    INITIAL_SCORE,
    HardConcreteFlags,
    check_gate_updates,
    noiseless_gates,
    open_probability,
    sampled_gates,
)
from neuroprune_fairseq.pruners.scores import ScoreRule, uniform_noise
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks

WARM_UP = 0.5  # of the updates in which gates learn: then the whole sparsity is asked for


@dataclass
class CofiFlags(HardConcreteFlags, SparsityTargetFlags):
    """Flags of CoFi."""


class Masks:
    """The scores of a model: one for each head and neuron (n), then one for each sublayer (m).

    A part is open if its own mask and that of its sublayer (attention module or MLP) are.
    """

    def __init__(self, model: nn.Module) -> None:
        """Read off the model what belongs to what.

        Args:
            model: a fairseq model.
        """
        numbers = part_numbers(model, neurons=True)
        weights = [
            sum(weight[0].numel() for weight in block.prunable_weights) * block.head_dim
            for block in attention_blocks(model)
        ]
        weights += [mlp.fc1.in_features + mlp.fc2.out_features for mlp in mlp_blocks(model)]
        repeats = torch.tensor(numbers, device="cpu")
        self.sublayer = torch.arange(len(numbers), device="cpu").repeat_interleave(repeats)  # (n,)
        self.weights = torch.tensor(weights, dtype=torch.float64, device="cpu")[self.sublayer]
        self.full = full_sizes(model)["total"]  # weights before any were cut

    def products(self, values: Tensor) -> Tensor:
        """What holds for each part where parts and sublayers both count: (n + m,) to (n,)."""
        parts, sublayers = values.split([len(self.sublayer), len(values) - len(self.sublayer)])
        return parts * sublayers[self.sublayer]

    def expected_sparsity(self, scores: Tensor) -> Tensor:
        """The share of prunable weights that are expected to be masked; differentiable, ()."""
        return 1.0 - (self.weights * self.products(open_probability(scores))).sum() / self.full

    def final_gates(self, scores: Tensor, sparsity: float) -> Tensor:
        """Gates of the parts most likely to be open, 0 for the others.

        Without noise; where that gate is 0 but its part stays, the chance that it is open.

        Args:
            scores: (n + m,).
            sparsity: no more weights stay than this leaves.

        Returns:
            (n,).
        """
        chance = self.products(open_probability(scores))
        order = chance.argsort(descending=True, stable=True)
        stay = self.weights[order].cumsum(0) <= (1.0 - sparsity) * self.full * (1 + 1e-9)
        gates = self.products(noiseless_gates(scores))
        return gates.where(gates > 0, chance).index_fill(0, order[~stay], 0.0)


class CofiRule(ScoreRule):
    """Masks that minimise the loss under a Lagrangian for the expected sparsity s.

    With the target t, which rises from 0, the scores descend and the multipliers ascend on
    l1 (t - s) + l2 (t - s)^2, beside the loss per token. At the end the parts that are most likely
    to be open stay, as many as the target leaves.

    Note:
        The paper also masks the model's dimensions, and learns from the dense model's layers:
        here --distill-from learns from its output alone. A masked sublayer keeps its output bias.
    """

    gates_neurons = True

    def __init__(self, flags: CofiFlags) -> None:
        """Start afresh.

        Raises:
            SystemExit: one line for flags that cannot be.
        """
        super().__init__(0.1 if flags.score_lr is None else flags.score_lr)
        self.sparsity = flags.target_sparsity or 0.0
        self._updates = flags.gate_updates
        self._asked = 0.0  # of the sparsity, at this update

    def start(self, gates: Gates, run: Run, state: dict[str, Any]) -> None:
        self._masks = Masks(run.model)
        self._asked = self._target(run)
        self._multipliers = nn.Parameter(torch.zeros(2, dtype=torch.float64, device="cpu"))
        self._ascent = torch.optim.Adam([self._multipliers], lr=self._lr, maximize=True)
        super().start(gates, run, state)
        if state:
            with torch.no_grad():
                self._multipliers.copy_(state["multipliers"])
            self._ascent.load_state_dict(state["ascent"])

    def living(self, model: nn.Module) -> Tensor:
        number = len(part_numbers(model, neurons=True))
        sublayers = torch.ones(number, dtype=torch.bool, device="cpu")
        return torch.cat([living_heads(model), living_neurons(model), sublayers])

    def initial_scores(self, scores: int, seed: int) -> Tensor:
        return torch.full((scores,), INITIAL_SCORE)

    def sample_gates(self, scores: Tensor, run: Run) -> Tensor:
        return self._masks.products(sampled_gates(scores, uniform_noise(run, len(scores))))

    def gates_of(self, scores: Tensor) -> Tensor:
        return self._masks.final_gates(scores, self._asked)

    def penalty(self, scores: Tensor) -> Tensor:
        return self._lagrangian(scores, self._multipliers.detach())

    def after_step(self, run: Run) -> None:
        self._asked = self._target(run)
        super().after_step(run)
        scores = self._scores.values.detach()
        (gradient,) = torch.autograd.grad(
            self._lagrangian(scores, self._multipliers), self._multipliers
        )
        self._multipliers.grad = gradient
        self._ascent.step()

    def have_learnt(self, run: Run) -> bool:
        return run.num_updates >= self._learning(run)

    def record(self, run: Run) -> dict[str, Any]:
        with torch.no_grad():
            expected = self._masks.expected_sparsity(self._scores.values).item()
        return {"sparsity_asked": self._asked, "sparsity_expected": expected}

    def state_dict(self) -> dict[str, Any]:
        multipliers = {"multipliers": self._multipliers.detach().clone()}
        return {**super().state_dict(), **multipliers, "ascent": self._ascent.state_dict()}

    def _lagrangian(self, scores: Tensor, multipliers: Tensor) -> Tensor:
        missing = self._asked - self._masks.expected_sparsity(scores)
        return multipliers[0] * missing + multipliers[1] * missing.square()

    def _learning(self, run: Run) -> int:
        """For how many updates."""
        return self._updates or max(1, 2 * run.length // 3)

    def _target(self, run: Run) -> float:
        return self.sparsity * min(1.0, run.num_updates / (WARM_UP * self._learning(run)))


class Cofi(Gated):
    """Masks on heads, neurons and sublayers as a pruner."""

    def __init__(self, flags: CofiFlags) -> None:
        """Start afresh.

        Raises:
            SystemExit: one line for flags that cannot be.
        """
        check_gate_updates(flags)
        if flags.target_sparsity is None or not 0 < flags.target_sparsity < 1:
            given = flags.target_sparsity
            refuse(f"--pruner cofi: --target-sparsity {given} must be a share between 0 and 1")
        super().__init__(CofiRule(flags))
