"""Any task of fairseq with a pruner: the only class that overrides a task's hooks."""

import sys
from contextlib import suppress
from typing import Any

from fairseq.logging import metrics

from neuroprune_fairseq.files.errors import refusing
from neuroprune_fairseq.plugin import compat, fitting, guards, resume, workers
from neuroprune_fairseq.plugin.loop import Loop
from neuroprune_fairseq.plugin.trainer import check_run


class PruningTask:
    """Mixed into a task of fairseq (see registration.py); each hook is a step of :class:`Loop`."""

    def __init__(self, cfg: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(cfg, *args, **kwargs)
        self.loop = Loop(cfg)
        if cfg.compact:
            compat.tell_tasks_their_trainer()

    # What is built before training.

    @classmethod
    def setup_task(cls, cfg, **kwargs):
        guards.check_workers(cfg)
        guards.check_corpus(cls, cfg)
        with guards.refusing_missing_files(cfg.data):
            return super().setup_task(cfg, **kwargs)

    @classmethod
    def load_dictionary(cls, filename):
        with refusing(f"{filename}: no dictionary that can be read; scripts/prepare.sh makes one"):
            return super().load_dictionary(filename)

    def load_dataset(self, split, *args, **kwargs):
        data = self.loop.settings.data
        with refusing(f"{data}: no text '{split}' to read; scripts/prepare.sh makes it"):
            super().load_dataset(split, *args, **kwargs)

    def build_criterion(self, cfg, *args, **kwargs):
        self.loop.criterion = super().build_criterion(cfg, *args, **kwargs)
        return self.loop.criterion

    def build_model(self, cfg, from_checkpoint=False):
        settings = self.loop.settings
        if not from_checkpoint:  # a training run, which loads checkpoint_last.pt next
            guards.check_settings(settings)
            guards.check_model_settings(cfg)
            compat.allow_fairseq_broadcasts()
            compat.write_checkpoints_whole()
            compat.remember_best_loss()
            if settings.store_ema:
                compat.start_ema_from_weights()
            if workers.is_first():
                resume.rescue_last_checkpoint(settings.save_dir)
            workers.wait_for_all()
            start = resume.check_start(settings, type(self).__name__)
        model = super().build_model(cfg, from_checkpoint)
        if not from_checkpoint and start:
            fitting.check_model(*start, model, cfg)
        return model

    def use_trainer(self, trainer: Any) -> None:
        """Before an epoch begins (compat.tell_tasks_their_trainer)."""
        if self.loop.settings.compact and self.loop.trainer is None:
            check_run(trainer.cfg)
            self.loop.trainer = trainer

    def get_batch_iterator(self, dataset, *args, epoch=1, **kwargs):
        if dataset is not self.datasets.get(self.loop.settings.train_subset):
            with guards.refusing_batches(**kwargs):
                return super().get_batch_iterator(dataset, *args, epoch=epoch, **kwargs)
        if kwargs.get("num_workers") == 0:
            # Its thread would draw noise from the generator that dropout is drawing from.
            kwargs["data_buffer_size"] = 0
        rebuilt = kwargs.get("disable_iterator_cache") or kwargs.get("update_epoch_batch_itr")
        kept = self.can_reuse_epoch_itr(dataset) and not rebuilt
        # Batches that are kept must be those of a run that was never killed: epoch 1's.
        made_in = 1 if kept else epoch
        with guards.refusing_batches(**kwargs):
            iterator = super().get_batch_iterator(dataset, *args, epoch=made_in, **kwargs)
        if not isinstance(iterator, resume.RunIterator):
            iterator = resume.RunIterator.of(iterator, epoch)
        if kept:
            self.dataset_to_epoch_iter[dataset] = iterator
        self.loop.iterator = iterator
        return iterator

    # The loop, in its order.

    def begin_epoch(self, epoch, model):
        super().begin_epoch(epoch, model)
        self.loop.begin_epoch(epoch, model)

    def train_step(
        self, sample, model, criterion, optimizer, update_num, ignore_grad=False, **rest
    ):
        arguments = (sample, model, criterion, optimizer, update_num, ignore_grad)
        error = sys.exc_info()[1]
        if isinstance(error, FloatingPointError):
            # fairseq gave this update up, and runs it again only to log where NaN or Inf begin;
            # with today's torch its search for that may fail.
            with suppress(Exception):
                super().train_step(*arguments, **rest)
            guards.refuse_failed_update(update_num + 1, error)
        self.loop.before_batch(optimizer, update_num)
        loss, sample_size, logging_output = super().train_step(*arguments, **rest)
        self.loop.after_batch(optimizer, sample, 0.0 if ignore_grad else sample_size)
        return loss, sample_size, logging_output

    def optimizer_step(self, optimizer, model, update_num):
        self.loop.before_step()
        if self.loop.pruner.trains_weights:
            super().optimizer_step(optimizer, model, update_num)
        self.loop.after_step()

    def begin_valid_epoch(self, epoch, model):
        super().begin_valid_epoch(epoch, model)
        self.loop.before_validation()

    def reduce_metrics(self, logging_outputs, criterion):
        if getattr(self.loop.settings, "eval_bleu", False):
            guards.count_empty_translations_(logging_outputs)
        super().reduce_metrics(logging_outputs, criterion)
        for name, value in self.loop.meters.items():
            metrics.log_scalar(name, value, weight=0, round=4)  # weight 0: the latest value

    # fairseq asks for this just before it saves, with or without validation.

    def get_checkpoint_dict(self):
        compat.make_meters_plain_()
        return {type(self).__name__: self.loop.state_dict()}

    def set_checkpoint_dict(self, state):
        self.loop.load_state_dict(state)
