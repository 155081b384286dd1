# SPDX-License-Identifier: Apache-2.0
"""PaddleSeg's settings in core's words: none is lost, and errors keep the user's own."""

from __future__ import annotations

import pytest
from seg_runs import DIGITS

from beitv2_core.config.sections import DataConfig, TrainConfig
from beitv2_core.engine.loop import FREE_SETTINGS as CORE_FREE_SETTINGS
from beitv2_core.errors import ConfigError
from beitv2_seg.assembly import FREE_SETTINGS, plan_accumulation
from beitv2_seg.config import RunSection, SegmentConfig, read_config_file
from beitv2_seg.config.translate import KEYS, train_settings

#: arguments of components, which no schema lists
ARGUMENTS = {"model.backbone.recompute", "train_dataset.dataset_root"}


def test_every_training_setting_of_core_but_keep_every_and_trackers_has_its_counterpart():
    assert {f"train.{name}" for name in TrainConfig.model_fields} - set(KEYS) == {"train.keep_every", "train.trackers"}
    known = {"output", *(f"train.{name}" for name in TrainConfig.model_fields),
             *(f"data.{name}" for name in DataConfig.model_fields)}
    ours = {*SegmentConfig.model_fields, *(f"run.{name}" for name in RunSection.model_fields), *ARGUMENTS}
    assert set(KEYS) <= known and set(KEYS.values()) <= ours


def test_what_a_resumed_core_run_may_change_a_resumed_segmentation_run_may_change_too():
    assert {KEYS[key] for key in CORE_FREE_SETTINGS if key in KEYS} <= set(FREE_SETTINGS)
    assert not {"iters", "optimizer", "lr_scheduler", "loss", "run.seed", "run.precision"} & set(FREE_SETTINGS)


def test_settings_come_over_with_their_values():
    given = ["total_batch=8", "run.precision=bf16", "run.sharding=stage1", "run.other_data=true", "run.log_iters=3",
             "run.save_interval=4", "run.keep_checkpoint_max=2", "model.backbone.recompute=true"]
    assert train_settings(read_config_file("digit_scenes", opts=[*DIGITS, *given])) == TrainConfig(
        batch_size=4, total_batch=8, amp="bf16", sharding="stage1", other_data=True, log_every=3, save_every=4,
        keep_last=2, recompute=True)


def test_a_total_batch_that_does_not_divide_is_named_as_the_user_wrote_it():
    config = read_config_file("digit_scenes", opts=[*DIGITS, "total_batch=6"])
    with pytest.raises(ConfigError, match=r"^total_batch: 6 is not a multiple of 4 images x 1 .*Change batch_size or"):
        plan_accumulation(config, 1)
