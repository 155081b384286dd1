# SPDX-License-Identifier: Apache-2.0
"""Batches, steps and learning rate of a run, computed from its settings; and its random seed."""

from __future__ import annotations

import logging
import random
from typing import NamedTuple, TypeVar

import numpy as np
import paddle

from ..config import RunConfig
from ..config.sections import OptimConfig, TrainConfig
from ..engine import distributed
from ..errors import ConfigError
from ..launching.records import processes_may_change, tell

log = logging.getLogger("beitv2_core")
AnyRun = TypeVar("AnyRun", bound=RunConfig)


class BatchPlan(NamedTuple):
    """Batch sizes in images, lengths in optimizer steps, and the peak learning rate after scaling."""

    images: int
    batch_size: int
    processes: int
    accumulate: int
    total_batch: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    lr: float

    def lines(self, optim: OptimConfig) -> list[str]:
        """The plan as lines of text, for the dry run and the log."""
        rate = f"{self.lr:.4g}"
        if optim.lr_batch is not None:
            rate += f" = {optim.lr:.4g} x {self.total_batch} / {optim.lr_batch}"
        return [
            f"total batch: {self.total_batch} = {self.batch_size} images x {self.processes} process(es) "
            f"x {self.accumulate} accumulated",
            f"steps per epoch: {self.steps_per_epoch} ({self.images} images)",
            f"steps: {self.total_steps}, of them {self.warmup_steps} warm-up",
            f"peak learning rate: {rate}, final {optim.min_lr:.4g}",
        ]


def batches_per_update(train: TrainConfig, processes: int, *, batch_size_key: str = "train.batch_size",
                       total_batch_key: str = "train.total_batch") -> int:
    """Batches that are accumulated for one update; ConfigError where they do not make the total batch.

    batch_size_key, total_batch_key: the settings that the error names.
    """
    global_batch = train.batch_size * processes
    total_batch = train.total_batch or global_batch
    if total_batch % global_batch:
        raise ConfigError(
            f"{total_batch_key}: {total_batch} is not a multiple of {train.batch_size} images x {processes} "
            f"process(es) = {global_batch}. Change {batch_size_key} or {total_batch_key}."
        )
    return total_batch // global_batch


def fitting_batch_size(train: TrainConfig, processes: int, *, batch_size_key: str = "train.batch_size",
                       total_batch_key: str = "train.total_batch") -> int:
    """Images that a process handles at once: `train.batch_size`, or fewer under a `beitv2 launch` of several hosts.

    That one may go on with other hosts, and the images behind one update must stay: the largest size that divides them.
    Raises ConfigError where train.total_batch is missing there, or is not divided by the processes.
    """
    if not processes_may_change():
        return train.batch_size
    if train.total_batch is None:
        raise ConfigError(f"{total_batch_key}: not set. The number of processes may change during this job (beitv2 "
                          "launch --nnodes), the images behind one update may not: set it, e.g. to "
                          f"{train.batch_size * processes}.")
    tell("total_batch", train.total_batch)
    if train.total_batch % processes:
        raise ConfigError(f"{total_batch_key}: {train.total_batch} images are not divided by {processes} processes. "
                          "Choose a number that is divided by the processes of any of the hosts.")
    share = train.total_batch // processes
    size = next(size for size in range(min(train.batch_size, share), 0, -1) if share % size == 0)
    if size != train.batch_size:
        log.warning("%s: %d instead of %d, so that %d processes make updates of %d images", batch_size_key, size,
                    train.batch_size, processes, train.total_batch)
    return size


def with_fitting_batch(config: AnyRun) -> AnyRun:
    """The settings of a run with the batch size of `fitting_batch_size`."""
    size = fitting_batch_size(config.train, distributed.world_size())
    return config.model_copy(update={"train": config.train.model_copy(update={"batch_size": size})})


def plan_batches(optim: OptimConfig, train: TrainConfig, images: int, processes: int) -> BatchPlan:
    """Derive accumulation, steps and the peak rate; ConfigError when the numbers do not divide or leave no step."""
    accumulate = batches_per_update(train, processes)
    total_batch = train.batch_size * processes * accumulate
    steps_per_epoch = images // total_batch  # what is left over is dropped, as the sampler does
    if steps_per_epoch < 1:
        key, lower = ("train.batch_size",) * 2 if train.total_batch is None else (
            "train.total_batch", "train.batch_size and train.total_batch")
        raise ConfigError(
            f"{key}: {total_batch} images behind one update, but the data has {images}. Lower {lower}, or give "
            "more images."
        )
    total_steps = optim.steps if optim.steps is not None else (optim.epochs or 0) * steps_per_epoch
    warmup = optim.warmup_steps if optim.warmup_steps is not None else (optim.warmup_epochs or 0) * steps_per_epoch
    if warmup > total_steps:
        raise ConfigError(
            f"optim: the warm-up of {warmup} steps ({steps_per_epoch} steps per epoch) is longer than the run of "
            f"{total_steps}. Set optim.warmup_epochs or optim.warmup_steps."
        )
    scale = 1.0 if optim.lr_batch is None else total_batch / optim.lr_batch
    return BatchPlan(
        images,
        train.batch_size,
        processes,
        accumulate,
        total_batch,
        steps_per_epoch,
        total_steps,
        warmup,
        optim.lr * scale,
    )


def seed_everything(seed: int) -> None:
    """Make weights and draws of this process repeatable."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    paddle.seed(seed)
