"""The loss of a batch as validation would count it, in the middle of a training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def loss_of_batch(model: nn.Module, criterion: nn.Module, sample: Any) -> Tensor:
    """The plain loss: without dropout, penalties, teachers, and without a random number drawn.

    Args:
        model: as it trains; it is in training mode afterwards, as fairseq sets it for every batch.
        criterion: of the training.
        sample: a batch, prepared as the criterion is given it.

    Returns:
        (), fp64, summed over what the criterion sums over.
    """
    model.eval()
    criterion.eval()
    try:
        return criterion(model, sample)[0].double().sum()  # adaptive_loss gives (1,)
    finally:
        model.train()
        criterion.train()
