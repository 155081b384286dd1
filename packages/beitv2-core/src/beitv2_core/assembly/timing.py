# SPDX-License-Identifier: Apache-2.0
"""How fast this machine trains: timed steps of the real models with the real loader, of both stages; writes nothing."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import paddle

from ..config import PretrainConfig, TokenizerConfig
from ..engine import distributed
from ..engine.step import Precision, train_step
from .models import build_tokenizer
from .restore import freeze
from .training import build_parts

#: steps before the clock starts: memory is allocated, workers have started, kernels are chosen
WARM_UP = 4
#: a rate of so small a step is the model's as built: nothing may diverge in steps without warm-up
SMALL_RATE = 1e-7
MATMUL_SIDE, MATMUL_SECONDS = 1024, 0.4


class Rate(NamedTuple):
    """Seconds of one step with its reading; read: of these, waiting for the batch; build: to build all parts."""

    step: float
    read: float
    build: float


class _Timed:
    """A stage that takes steps by the clock."""

    def __init__(self, config: Any, tokenizer: Any = None) -> None:
        began = time.monotonic()
        self.parts = build_parts(config, tokenizer=tokenizer)
        self.build = time.monotonic() - began
        task = self.parts.task
        distributed.barrier_on_cpu()
        task.network = paddle.DataParallel(task.model) if distributed.world_size() > 1 else task.model
        self.parts.optimizer.set_lr(SMALL_RATE)
        self.precision, self.clip_norm = Precision(config.train.amp), config.optim.clip_norm
        self.batches = iter(self.parts.loader)
        self.taken, self.steps, self.seconds, self.reading = 0, 0, 0.0, 0.0
        task.model.train()

    def run(self, steps: int, *, counted: bool = True) -> float:
        """Take steps and return the seconds of one; `counted`: as part of the rate."""
        began, reading = time.monotonic(), 0.0
        for _ in range(steps):
            asked = time.monotonic()
            batches = [next(self.batches) for _ in range(self.parts.plan.accumulate)]
            reading += time.monotonic() - asked
            distributed.barrier_on_cpu()
            train_step(self.parts.task, batches, self.parts.optimizer, self.precision, step=self.taken,
                       clip_norm=self.clip_norm)
            self.taken += 1
        seconds = time.monotonic() - began
        if counted:
            self.steps, self.seconds, self.reading = self.steps + steps, self.seconds + seconds, self.reading + reading
        return seconds / steps

    @property
    def rate(self) -> Rate:
        return Rate(self.seconds / self.steps, self.reading / self.steps, self.build)


def measure_rates(codes: TokenizerConfig, model: PretrainConfig, *, seconds: float) -> tuple[Rate, Rate]:
    """The rates of both stages, from at least six steps and about `seconds` of each.

    The stages take turns, so that a machine that is busy for a while slows both.  The tokenizer is timed with its
    codebook, which most of its steps have; the backbone reads the codes of an untrained one of the same size.
    In a launch every process takes part; the values are those of the first.
    """
    health = codes.health.model_copy(update={"unquantized_steps": 0, "kmeans_batches": 1})
    first = _Timed(codes.model_copy(update={"health": health}))
    untrained = freeze(build_tokenizer(codes, teacher_width=first.parts.task.teacher.width))
    alone = {"tokenizer": model.tokenizer.model_copy(update={"cache": None}),  # it would be written to
             "monitor": model.monitor.model_copy(update={"every": None})}  # its cost is known: at most 2 %
    second = _Timed(model.model_copy(update=alone), untrained)
    try:
        stages = (first, second)
        counts = []
        for stage in stages:
            stage.run(WARM_UP, counted=False)
            guess = stage.run(2, counted=False)
            # as many as the first process takes: each waits for the others in every step
            counts.append(distributed.all_values(max(3, int(seconds / 2 / guess)))[0])
        for _ in range(2):
            for stage, count in zip(stages, counts):
                stage.run(count)
        return first.rate, second.rate
    finally:
        for stage in (first, second):
            stage.parts.loader.close()


def matmul_tflops() -> float:
    """TFLOP/s of this device's products of 1024 x 1024 matrices in float32, by less than a second of them."""
    left, right = (paddle.rand([MATMUL_SIDE, MATMUL_SIDE]) for _ in range(2))
    float(paddle.matmul(left, right).sum())
    began, count = time.monotonic(), 0
    while time.monotonic() - began < MATMUL_SECONDS:
        for _ in range(4):
            product = paddle.matmul(left, right)
        float(product[0, 0])  # waits for the device
        count += 4
    return count * 2 * MATMUL_SIDE ** 3 / (time.monotonic() - began) / 1e12
