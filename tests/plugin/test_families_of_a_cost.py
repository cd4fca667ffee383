"""A target of cost in every family of models: its measurements work for all criterions."""

from __future__ import annotations

import pytest
from test_families import FAMILIES, RUN, epoch_lines, load, train_on


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_costs_what_was_asked_for_and_loads_again(family, data, tmp_path):
    target = "--target-flops 0.8 --target-interval 1 --max-epoch 3".split()
    arguments = [*FAMILIES[family].arguments, *RUN, *target]
    train_on(data / FAMILIES[family].data, tmp_path, *arguments)
    # Coarse where a head or a layer is a large part of a tiny model.
    assert 0.7 <= epoch_lines(tmp_path)[-1]["cost_share"] <= 0.8
    _, loss = load(tmp_path / "checkpoint_last.pt", data, family)
    assert loss == loss  # no NaN
