# SPDX-License-Identifier: Apache-2.0
"""A dry run takes one step of whatever the settings name; training itself refuses what it would not do."""

from __future__ import annotations

import pytest

from beitv2_core.assembly import build_training
from beitv2_core.assembly.dry_run import run_one_step
from beitv2_core.assembly.restore import save_untrained
from beitv2_core.config import parse_config
from beitv2_core.errors import ConfigError

TRUNK = {"width": 24, "depth": 1, "num_heads": 2}
DATA = {"dataset": "digit_scenes", "size": 16, "image_size": 16}


def tokenizer(folder, **changes):
    return parse_config({
        "kind": "tokenizer", "output": str(folder), "data": DATA, "encoder": {**TRUNK, "patch_size": 4},
        "decoder": TRUNK, "quantizer": {"num_codes": 40, "code_dim": 8}, "teacher": {"name": "hog"},
        "optim": {"lr": 1e-3, "steps": 2}, "train": {"batch_size": 4, **changes}})


@pytest.fixture
def pretraining(tmp_path):
    save_untrained(tokenizer(tmp_path / "tokens"), teacher_width=5)

    def pretraining(train="off", tokens="off"):
        return parse_config({
            "kind": "pretrain", "output": str(tmp_path / "run"), "data": DATA,
            "model": {**TRUNK, "depth": 2, "patch_size": 4, "early_layers": 1},
            "tokenizer": {"weights": str(tmp_path / "tokens"), "amp": tokens},
            "mask": {"num_masked": 6, "min_block": 2},
            "optim": {"lr": 1e-3, "steps": 2}, "train": {"batch_size": 4, "amp": train}})

    return pretraining


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_that_is_not_computed_is_refused_with_the_line_to_write(pretraining, tmp_path, amp,
                                                                               without_bfloat16):
    for config, key in ((tokenizer(tmp_path / "run", amp=amp), "train.amp"), (pretraining(train=amp), "train.amp"),
                        (pretraining(tokens=amp), "tokenizer.amp")):
        with pytest.raises(ConfigError) as refused:
            build_training(config)
        assert f"{key}: {amp}" in str(refused.value) and f"Set {key}=off" in str(refused.value)
        assert not (tmp_path / "run").exists()


def test_a_dry_run_of_a_recipe_for_gpus_goes_on_and_says_so(pretraining, tmp_path, without_bfloat16):
    shown = "\n".join(run_one_step(pretraining(train="fp16", tokens="bf16")).lines())
    assert "one step: loss" in shown
    assert "train.amp=fp16: only a GPU computes float16." in shown
    assert "tokenizer.amp=bf16: this processor does not multiply bfloat16" in shown
    assert not (tmp_path / "run").exists()
    assert "GPU" not in "\n".join(run_one_step(pretraining()).lines())
