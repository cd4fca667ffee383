"""What fairseq's tasks lack: names that are gone, noise without a seed, their trainer."""

from __future__ import annotations

import functools
import types


def give_tasks_what_they_lack() -> None:
    """Let tasks read their data where a name that they use is gone.

    Texts that are broken at every sentence ask for ``np.compat.long``, which NumPy 2.4 left out.
    TranslationFromPretrainedBARTTask asks itself for ``args``, which its base class calls ``cfg``
    since it has a dataclass.
    """
    import numpy
    from fairseq.tasks.translation_from_pretrained_bart import TranslationFromPretrainedBARTTask

    if not hasattr(numpy, "compat"):
        vars(numpy)["compat"] = types.SimpleNamespace(long=int)
    TranslationFromPretrainedBARTTask.args = property(lambda task: task.cfg)


def seed_noise_of_denoising() -> None:
    """Let the noise of a sentence depend on seed, epoch and sentence alone, as for other tasks.

    fairseq seeds NumPy for it, but draws most of it from torch's generator. So no two runs had
    the same noise, and a run that was resumed was another run.
    """
    import torch
    from fairseq.data import DenoisingDataset

    original = DenoisingDataset.__getitem__
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def item(dataset, index):
        before = torch.get_rng_state()
        seed = hash((dataset.seed, dataset.epoch, index)) % 2**32
        torch.default_generator.manual_seed(seed)
        try:
            return original(dataset, index)
        finally:
            torch.set_rng_state(before)

    DenoisingDataset.__getitem__ = item


def tell_tasks_their_trainer() -> None:
    """Hand the trainer to a task's ``use_trainer`` when an epoch begins.

    A model that gets smaller needs another optimizer and another data-parallel wrapper.
    fairseq's Trainer makes them anew (``reinitialize``), but its hooks hand a task the model
    alone, and nothing that a task is given leads to the trainer.
    """
    from fairseq.trainer import Trainer

    original = Trainer.begin_epoch
    if hasattr(original, "__wrapped__"):
        return  # told already

    @functools.wraps(original)
    def begin_epoch(trainer, epoch):
        if hasattr(trainer.task, "use_trainer"):
            trainer.task.use_trainer(trainer)
        return original(trainer, epoch)

    Trainer.begin_epoch = begin_epoch
