# SPDX-License-Identifier: Apache-2.0
"""`beitv2 segment train --dry-run`: build a whole run, take one step, measure it, and leave nothing behind."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from beitv2_core.assembly.dry_run import DryRun, KeepsGradients, saved_for_backward
from beitv2_core.engine import distributed
from beitv2_core.engine.optim import optimizer_state
from beitv2_core.engine.step import train_step
from beitv2_core.layers.fast.products import why_not
from beitv2_seg.assembly.training import batch_lines, build_segmentation
from beitv2_seg.config import SegmentConfig
from beitv2_seg.config.translate import AMP


def run_one_step(config: SegmentConfig) -> DryRun:
    """Build everything the settings name and take one training step of one batch. Nothing is written.

    A recipe with mixed precision takes its step in float32 where this device does not compute it, and the report says
    so.
    """
    notes = []
    reason = why_not(AMP[config.run.precision])
    if reason is not None:
        notes.append(f"run.precision={config.run.precision}: {reason} This step was taken in float32; to train on "
                     "this machine, set run.precision=fp32")
        config = config.model_copy(update={"run": config.run.model_copy(update={"precision": "fp32"})})
    loop = build_segmentation(config)
    task, model = loop.task, loop.task.model
    model.train()
    batch = next(iter(loop.loader))  # one of the accumulated batches is enough to measure
    samples = len(loop.loader.dataset)
    loop.loader.close()
    began = time.perf_counter()
    metrics = train_step(task, [batch], KeepsGradients(loop.optimizer), loop.precision, step=0,
                         clip_norm=loop.clip_norm)
    seconds = time.perf_counter() - began
    moments = sum(np.asarray(value).nbytes for value in optimizer_state(loop.optimizer, model).values())
    with loop.precision.autocast():
        kept = saved_for_backward(model, lambda: task.loss(batch, step=0))
    trained = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    return DryRun(
        kind=config.kind, parameters=_numbers(model.parameters()), trainable=_numbers(trained), frozen_beside=0,
        plan_lines=batch_lines(config, distributed.world_size(), samples), loss=metrics["loss"],
        gradient_norm=metrics["grad_norm"], seconds=seconds,
        weight_bytes=sum(value.numpy().nbytes for value in model.state_dict().values()),
        gradient_bytes=sum(parameter.grad.numpy().nbytes for parameter in trained if parameter.grad is not None),
        optimizer_bytes=moments, activation_bytes=kept, notes=notes)


def _numbers(parameters: Any) -> int:
    return sum(int(np.prod(parameter.shape)) for parameter in parameters)
