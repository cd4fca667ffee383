"""What the data-parallel workers of a run do together; without several of them, nothing.

Every worker computes every decision, from the same summed gradients and the same weights. That
is not left to luck: what is measured on a worker's own batches is summed, and after an edit all
workers take over the first one's weights, which are also the ones that are saved.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from fairseq.distributed import utils as distributed_utils
from torch import Tensor

FIRST = 0


def position() -> tuple[int, int]:
    """Which worker this is, from 0, and how many there are."""
    return distributed_utils.get_global_rank(), distributed_utils.get_global_world_size()


def is_first() -> bool:
    """Whether this worker is the one that writes files."""
    return position()[0] == FIRST


def _group() -> Any:
    """fairseq's group of workers, None when there is only one."""
    return distributed_utils.get_data_parallel_group() if position()[1] > 1 else None


def sum_over_workers(values: Tensor, device: torch.device) -> Tensor:
    """Sum a small tensor over all workers; every one of them must call it.

    Args:
        values: any shape, on the CPU.
        device: where the workers' backend wants tensors: the model's device.

    Returns:
        As ``values``, the same on every worker.
    """
    group = _group()
    if group is None:
        return values
    return distributed_utils.all_reduce(values.to(device, copy=True), group).cpu()


def follow_first_(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors in place with the first worker's; every worker must call it.

    Args:
        tensors: of the same shapes and in the same order on every worker, on the device that
            the workers' backend wants.
    """
    group = _group()
    for tensor in tensors if group is not None else ():
        distributed_utils.broadcast(tensor.data, FIRST, group)


def wait_for_all() -> None:
    """Return when every worker has called this; what one of them did before is then done."""
    group = _group()
    if group is not None:
        torch.distributed.barrier(group)
