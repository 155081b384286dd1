# SPDX-License-Identifier: Apache-2.0
"""Training in bfloat16 on the CPU: resumed to the bit, near float32, and with the codes of float32."""

from __future__ import annotations

import json

import numpy as np
import pytest

from beitv2_core.assembly import build_training
from beitv2_core.assembly.restore import save_untrained
from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.config import parse_config
from beitv2_core.layers.fast import products

TRUNK = {"width": 32, "depth": 2, "num_heads": 2}
DATA = {"dataset": "digit_scenes", "size": 64, "image_size": 16}
STEPS = 24


@pytest.fixture(autouse=True)
def bfloat16(monkeypatch):
    if products.why_not("bf16") is not None:
        monkeypatch.setenv(products.EMULATE, "1")


@pytest.fixture
def pretraining(tmp_path):
    tokenizer = parse_config({
        "kind": "tokenizer", "output": str(tmp_path / "tokens"), "data": DATA, "decoder": TRUNK,
        "encoder": {**TRUNK, "patch_size": 4}, "quantizer": {"num_codes": 16, "code_dim": 8},
        "teacher": {"name": "hog"},
        "optim": {"lr": 1e-3, "steps": 2}, "train": {"batch_size": 4}})
    save_untrained(tokenizer, teacher_width=5)

    def loop(name, amp, seed=0, recompute=False):
        return build_training(parse_config({
            "kind": "pretrain", "output": str(tmp_path / name), "data": DATA, "seed": seed,
            "model": {**TRUNK, "patch_size": 4, "early_layers": 1},
            "tokenizer": {"weights": str(tmp_path / "tokens")}, "mask": {"num_masked": 6, "min_block": 2},
            "optim": {"lr": 3e-3, "steps": STEPS},
            "train": {"batch_size": 8, "amp": amp, "log_every": 1, "recompute": recompute}}))

    return loop


def weights(folder):
    store = CheckpointStore(folder / "checkpoints")
    return store.load(store.latest()).weights


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return np.asarray([line["loss"] for line in lines if "loss" in line])


def test_a_resumed_run_equals_the_uninterrupted_one(pretraining, tmp_path):
    pretraining("whole", "bf16").run()
    pretraining("parts", "bf16").run(stop_after=9)
    pretraining("parts", "bf16").run("auto")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name in whole:
        np.testing.assert_array_equal(whole[name], parts[name], err_msg=name)
        assert whole[name].dtype in (np.float32, np.int64), name


def test_recomputed_blocks_compute_in_it_too(pretraining, tmp_path):
    for name, recompute in (("kept", False), ("again", True)):
        pretraining(name, "bf16", recompute=recompute).run(stop_after=3)
    kept, again = weights(tmp_path / "kept"), weights(tmp_path / "again")
    for name in kept:
        np.testing.assert_array_equal(kept[name], again[name], err_msg=name)


def test_its_losses_are_nearer_to_float32_than_another_seed_is(pretraining, tmp_path):
    for name, amp, seed in (("exact", "off", 0), ("mixed", "bf16", 0), ("other", "off", 1)):
        pretraining(name, amp, seed).run()
    exact, mixed, other = (losses(tmp_path / name) for name in ("exact", "mixed", "other"))
    assert len(exact) == STEPS and exact[-1] < exact[0]
    assert 0 < np.abs(mixed - exact).max() < 0.2 * np.abs(other - exact).max()


def test_the_targets_are_the_codes_of_float32(pretraining):
    """`tokenizer.amp` is its own setting, and off: the tokenizer inside a bfloat16 step computes in float32."""
    task = pretraining("run", "bf16").task
    batch = next(iter(pretraining("same", "off").loader))
    alone = task.masked_codes(batch.token_view, batch.mask).numpy()
    with products.mixed_precision("bf16"):
        inside = task.masked_codes(batch.token_view, batch.mask).numpy()
    np.testing.assert_array_equal(alone, inside)
