# SPDX-License-Identifier: Apache-2.0
"""Everything our PaddleSeg YAML names is found and built by PaddleSeg, with the recipe's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

pytest.importorskip("paddleseg", reason="PaddleSeg is not installed")

from paddleseg.cvlibs import Config, SegBuilder, manager  # noqa: E402

from beitv2_core.errors import ConfigError  # noqa: E402
from beitv2_seg.paddleseg.adapter import register  # noqa: E402
from beitv2_seg.training.optim import BEiTv2WarmupPoly  # noqa: E402

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "seg"
SMALL = ["model.backbone.size=tiny", "model.backbone.depth=4", "model.backbone.out_indices=[0,1,2,3]",
         "model.backbone.image_size=64", "model.channels=16", "model.aux_channels=8"]


@pytest.fixture
def builder(tmp_path):
    register()

    def build(name: str, *settings: str) -> SegBuilder:
        roots = [f"{part}.dataset_root={tmp_path}" for part in ("train_dataset", "val_dataset")]
        return SegBuilder(Config(str(CONFIGS / name), opts=[*SMALL, *roots, *settings]))

    return build


def test_registering_twice_changes_nothing_and_a_foreign_name_is_refused():
    names = register()
    assert register() == names and "BEiTv2UPerNet" in manager.MODELS.components_dict
    original = manager.LOSSES.components_dict["BEiTv2CrossEntropyLoss"]
    manager.LOSSES.components_dict["BEiTv2CrossEntropyLoss"] = object
    try:
        with pytest.raises(ConfigError, match="already has"):
            register()
    finally:
        manager.LOSSES.components_dict["BEiTv2CrossEntropyLoss"] = original


def test_one_update_with_everything_the_yaml_names(builder):
    parts = builder("beitv2_upernet.yml", "iters=4", "lr_scheduler.total_iters=4", "lr_scheduler.warmup=1")
    model, loss = parts.model, parts.loss
    model.train()
    before = {name: p.numpy().copy() for name, p in model.named_parameters() if not p.stop_gradient}
    labels = paddle.to_tensor(np.random.RandomState(0).randint(0, 150, (2, 64, 64)))
    optimizer = parts.optimizer
    optimizer.set_lr_scheduler(parts.lr_scheduler)
    parts.lr_scheduler.step()
    logits = model(paddle.rand([2, 3, 64, 64]))
    assert [list(part.shape) for part in logits] == [[2, 150, 64, 64]] * 2
    losses = [weight * kind(part, labels) for weight, kind, part in zip(loss["coef"], loss["types"], logits)]
    sum(losses).backward()
    optimizer.step()
    moved = [name for name, p in model.named_parameters() if name in before and not np.array_equal(before[name], p)]
    assert set(moved) == set(before)


@pytest.mark.parametrize(("name", "rate", "decay", "taps", "channels"), [
    ("beitv2_upernet.yml", 5e-5, 0.75, [3, 5, 7, 11], 768),
    ("beitv2_upernet_ft21k.yml", 5e-5, 0.85, [3, 5, 7, 11], 768),
    ("beitv2_upernet_large.yml", 4e-5, 0.9, [7, 11, 15, 23], 1024),
])
def test_the_recipes_hold_the_published_settings(name, rate, decay, taps, channels):
    tree = Config(str(CONFIGS / name)).dic
    assert (tree["lr_scheduler"]["learning_rate"], tree["optimizer"]["layer_decay"]) == (rate, decay)
    assert (tree["model"]["backbone"]["out_indices"], tree["model"]["channels"]) == (taps, channels)
    schedule = tree["lr_scheduler"]
    assert (tree["iters"], schedule["total_iters"], schedule["warmup"]) == (160000, 160000, 1500)
    assert tree["test_config"] == {"is_slide": True, "crop_size": [512, 512], "stride": [341, 341]}


def test_the_schedule_follows_mmcv_to_the_last_step():
    schedule = BEiTv2WarmupPoly(1.0, total_iters=10, warmup=4, warmup_ratio=0.5)
    rates = []
    for _ in range(11):
        rates.append(schedule.get_lr())
        schedule.step()
    assert rates[:5] == pytest.approx([0.5, 0.9 * 0.625, 0.8 * 0.75, 0.7 * 0.875, 0.6])
    assert rates[9] == pytest.approx(0.1) and rates[10] == 0.0
