# SPDX-License-Identifier: Apache-2.0
"""What a pretraining run is measured on while it goes on."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from ..config import PretrainConfig
from ..config.sections import DataConfig
from ..data import eval_batches
from ..data.views.transforms import normalise, to_unit_floats
from ..datasets import DRAWN
from ..engine.feature_monitor import FEWEST_IMAGES, FeatureMonitor, Pictures, affordable_every
from ..errors import ConfigError
from .batches import BatchPlan
from .data import build_dataset, reading_of
from .held_out import has_classes, named_images

log = logging.getLogger("beitv2_core")
BATCH = 64  # images of one pass: the time of an image hardly falls with more


def build_monitor(config: PretrainConfig, num_codes: int, plan: BatchPlan) -> FeatureMonitor:
    """The monitor of the settings, its images decoded and kept as bytes.

    Raises ConfigError where the labelled images have no classes, or fewer than two images.
    """
    asked, data = config.monitor, config.data
    size = asked.images if data.held_out is None else None
    images = _pictures(build_dataset(data, split="test", size=size), config)
    labelled = None if asked.labelled is None else _labelled(config, asked.labelled)
    measured = len(images.pixels) + (0 if labelled is None else len(labelled.pixels))
    every = (max(affordable_every(measured, plan.total_batch), config.train.log_every) if asked.every == "auto"
             else int(asked.every or 0))
    if len(images.pixels) < FEWEST_IMAGES:
        log.info("monitor: %d held-out images say nothing about the spectrum of features, which is left out (at least "
                 "%d are needed)", len(images.pixels), FEWEST_IMAGES)
    log.info("monitor: %d held-out images%s every %d steps", len(images.pixels),
             "" if labelled is None else f" and {len(labelled.pixels)} labelled ones", every)
    return FeatureMonitor(images, prepare=lambda pixels: normalise(to_unit_floats(pixels)),
                          every=every, total_steps=plan.total_steps, num_codes=num_codes, batch_size=BATCH,
                          labelled=labelled)


def _labelled(config: PretrainConfig, named: str) -> Pictures:
    size = config.data.image_size
    data = (DataConfig(dataset=named, size=config.monitor.images, image_size=size) if named in DRAWN
            else named_images(named, size, reading_of(config.data)))
    if not has_classes(data) and data.dataset == "folder":
        raise ConfigError(f"monitor.labelled: {named}: no class folders; expected at least two folders of images, one "
                          "for each class. Sort the images into folders, or leave monitor.labelled out.")
    dataset = (build_dataset(data, split="test", size=config.monitor.images) if named in DRAWN
               else build_dataset(data, with_classes=True, setting="monitor.labelled"))
    found = _pictures(dataset, config)
    if len(found.pixels) < 2:
        raise ConfigError(f"monitor.labelled: {named}: {len(found.pixels)} image; neighbours need at least two. Give "
                          "more images.")
    return found


def _pictures(dataset: Any, config: PretrainConfig) -> Pictures:
    """The central crops of images spread over a data set."""
    batches = list(eval_batches(dataset, config.data.image_size, limit=config.monitor.images,
                                num_workers=config.data.num_workers))
    pixels = np.concatenate([np.rint(np.moveaxis(batch.images, 1, 3) * 255).astype(np.uint8) for batch in batches])
    return Pictures(pixels, np.concatenate([batch.labels for batch in batches]))
