# SPDX-License-Identifier: Apache-2.0
"""PaddleSeg's settings in core's words. What trains reads these; only what the user sees keeps PaddleSeg's."""

from __future__ import annotations

from typing import Literal

from beitv2_core.config.sections import TrainConfig
from beitv2_seg.config.schema import SegmentConfig

#: core's key -> the key of a segmentation run with the same meaning
KEYS = {
    "output": "output",
    "train.batch_size": "batch_size",
    "train.total_batch": "total_batch",
    "train.amp": "run.precision",
    "train.sharding": "run.sharding",
    "train.recompute": "model.backbone.recompute",
    "train.other_data": "run.other_data",
    "train.log_every": "run.log_iters",
    "train.save_every": "run.save_interval",
    "train.check_every": "run.check_every",
    "train.verify_every": "run.verify_every",
    "train.keep_last": "run.keep_checkpoint_max",
    "data.root": "train_dataset.dataset_root",
    "data.num_workers": "run.num_workers",
    "data.max_corrupt": "run.max_corrupt",
    "data.max_pixels": "run.max_pixels",
}
AMP: dict[str, Literal["off", "bf16", "fp16"]] = {"fp32": "off", "fp16": "fp16", "bf16": "bf16"}


def train_settings(config: SegmentConfig) -> TrainConfig:
    """Batches, precision, logging and checkpoints of a segmentation run, as every other run has them."""
    run = config.run
    return TrainConfig(
        batch_size=config.batch_size,
        total_batch=config.total_batch,
        amp=AMP[run.precision],
        sharding=run.sharding,
        recompute=bool(config.model.backbone.options().get("recompute", False)),
        other_data=run.other_data,
        log_every=run.log_iters,
        save_every=run.save_interval,
        check_every=run.check_every,
        verify_every=run.verify_every,
        keep_last=run.keep_checkpoint_max,
    )
