# SPDX-License-Identifier: Apache-2.0
"""The two methods: what they count, replace and refuse."""

from __future__ import annotations

import logging

import numpy as np
import paddle
import pytest

from beitv2_core.data.views.recipes import MimBatch, TokenizerBatch
from beitv2_core.engine.tasks.mim_task import MimTask
from beitv2_core.engine.tasks.vqkd_task import VQKDTask
from beitv2_core.errors import ConfigError, ShapeError
from beitv2_core.models.backbone import BEiTBackbone
from beitv2_core.models.mim import BEiTForMaskedImageModeling
from beitv2_core.models.vqkd import VQKD

SMALL = dict(width=16, depth=2, num_heads=2)


def tokenizer(kmeans_init=False, num_codes=12) -> VQKD:
    encoder = BEiTBackbone(image_size=16, patch_size=4, use_abs_pos_emb=True, norm="pool", **SMALL)
    decoder = BEiTBackbone(image_size=4, patch_size=1, in_chans=4, use_abs_pos_emb=True, norm="pool", **SMALL)
    model = VQKD(encoder, decoder, num_codes=num_codes, code_dim=4, teacher_width=3, kmeans_init=kmeans_init)
    for parameter in model.parameters():
        parameter.set_value(parameter + 0.3 * paddle.randn(parameter.shape))
    return model


def teacher(images):
    return paddle.nn.functional.avg_pool2d(images, 4, 4).flatten(2).transpose([0, 2, 1])


def random_images(count=4, seed=0):
    return TokenizerBatch(np.random.RandomState(seed).rand(count, 3, 16, 16).astype("float32"), ["a"] * count)


def run(task, steps, start=0):
    task.model.train()
    for step in range(start, start + steps):
        batch = random_images(seed=step)
        task.before_step(batch, step=step)
        task.loss(batch, step=step)


def test_the_codebook_starts_from_features_of_several_batches_after_the_unquantised_steps():
    task = VQKDTask(tokenizer(kmeans_init=True), teacher, seed=0, unquantized_steps=3, kmeans_batches=2)
    run(task, 3)
    assert not task.model.quantize.codebook.numpy().any()
    assert [part.shape for part in task.state()["collected"]] == [(64, 4)] * 2
    run(task, 1, start=3)
    assert task.model.quantize.initted.item() == 1
    assert task.state()["collected"] == []
    np.testing.assert_allclose(np.linalg.norm(task.model.quantize.codebook.numpy(), axis=1), 1, atol=1e-5)


def test_codes_unused_for_long_are_replaced_by_current_features_and_counted():
    task = VQKDTask(tokenizer(), teacher, seed=0, revive_after=2)
    hidden = -task.model.quantize.codebook.mean(0)  # one direction far from what the encoder gives
    task.model.quantize.codebook[3] = hidden / hidden.norm()
    before = task.model.quantize.codebook.numpy().copy()
    run(task, 1)
    np.testing.assert_allclose(task.model.quantize.codebook.numpy()[task.last_used < 0],
                               before[task.last_used < 0], atol=1e-6)
    run(task, 4, start=1)
    values = task.log_values()
    assert values["revived"] > 0
    assert task.log_values().get("usage") is None  # a new window


def test_eval_mode_counts_and_replaces_nothing():
    task = VQKDTask(tokenizer(), teacher, seed=0, revive_after=1)
    task.model.eval()
    before = {name: value.numpy().copy() for name, value in task.model.state_dict().items()}
    task.loss(random_images(), step=5)
    assert all(np.array_equal(value.numpy(), before[name]) for name, value in task.model.state_dict().items())
    assert task.usage.counts.sum() == 0


def test_a_collapsed_codebook_is_warned_about_with_advice(caplog):
    task = VQKDTask(tokenizer(num_codes=64), teacher, seed=0)
    task.usage.counts[:, 0] = 1000
    with caplog.at_level(logging.WARNING, logger="beitv2_core"):
        logging.getLogger("beitv2_core").propagate = True
        values = task.log_values()
    assert values["usage"] == 1 / 64
    assert "health.revive_after" in caplog.text


def test_the_state_of_a_task_continues_the_window():
    one, other = (VQKDTask(tokenizer(), teacher, seed=0, revive_after=9) for _ in range(2))
    run(one, 3)
    other.load_state(one.state())
    assert other.log_values() == one.log_values()


def test_a_new_epoch_zeroes_the_cluster_sizes_as_the_official_code_does():
    task = VQKDTask(tokenizer(), teacher, seed=0)
    run(task, 2)
    assert task.model.quantize.cluster_size.numpy().any()
    task.on_epoch(1)
    assert not task.model.quantize.cluster_size.numpy().any()


def test_impossible_health_measures_are_named():
    with pytest.raises(ConfigError, match="revive_after is 0; expected at least 1"):
        VQKDTask(tokenizer(), teacher, seed=0, revive_after=0)


def student(**changes):
    settings = {"early_layers": 1, "head_layers": 1, **SMALL, **changes}
    return BEiTForMaskedImageModeling(num_codes=12, image_size=16, patch_size=4, use_shared_rel_pos_bias=True,
                                      **settings)


def test_pretraining_reads_the_codes_of_hidden_patches_only():
    task = MimTask(student(), tokenizer())
    images = random_images().images
    mask = np.random.RandomState(1).rand(4, 16) < 0.4
    loss, metrics = task.loss(MimBatch(images, images, mask, ["a"] * 4), step=0)
    assert float(loss) == pytest.approx(float(metrics["loss_mim"]) + float(metrics["loss_cls"]), rel=1e-6)
    codes = task.tokenizer.tokenize(paddle.to_tensor(images)).numpy()
    assert np.array_equal(task.masked_codes(images, mask).numpy(), codes[mask])
    loss.backward()
    assert all(parameter.grad is None for parameter in task.tokenizer.parameters())


def test_a_mask_for_another_grid_names_both_numbers():
    task = MimTask(student(), tokenizer())
    with pytest.raises(ShapeError, match="16 codes an image, the mask has 9"):
        task.masked_codes(random_images().images, np.ones((4, 9), dtype=bool))


@pytest.mark.parametrize("early", [0, 3])
def test_an_early_layer_outside_the_trunk_is_refused(early):
    with pytest.raises(ShapeError, match=f"early_layers={early} of 2 blocks"):
        student(early_layers=early)


def test_a_batch_whose_masks_hide_nothing_names_the_settings_of_the_mask():
    """The mean of no losses is NaN, and Paddle 2.6 selects no empty index; one image of a batch may hide nothing."""
    task, images = MimTask(student(), tokenizer()), random_images().images
    mask = np.zeros((4, 16), dtype=bool)
    with pytest.raises(ShapeError, match="all 4 images .* hide none of their 16 patches.*mask.kind, mask.num_masked"):
        task.loss(MimBatch(images, images, mask, ["a"] * 4), step=0)
    mask[0, :3] = True
    loss, _ = task.loss(MimBatch(images, images, mask, ["a"] * 4), step=0)
    assert np.isfinite(float(loss))


def test_a_mask_that_hides_nothing_asks_for_no_logits():
    images, mask = paddle.to_tensor(random_images().images), np.zeros((4, 16), dtype=bool)
    for options, heads in (({}, {"mim"}), ({"early_layers": 1, "head_layers": 1}, {"mim", "cls"})):
        model = BEiTForMaskedImageModeling(num_codes=12, image_size=16, patch_size=4, **options, **SMALL)
        logits = model(images, mask)
        assert set(logits) == heads and all(value.shape == [0, 12] for value in logits.values())


def test_logits_of_the_head_are_those_of_every_patch_at_the_masked_ones():
    model = student()
    model.eval()
    images = paddle.to_tensor(random_images().images)
    mask = np.random.RandomState(1).rand(4, 16) < 0.4
    chosen = model(images, paddle.to_tensor(mask))
    every = model.all_logits(images, paddle.to_tensor(mask))
    for head in ("mim", "cls"):
        np.testing.assert_allclose(chosen[head].numpy(), every[head].numpy()[mask], atol=1e-5)


def test_recomputed_activations_give_the_same_gradients():
    plain, saving = student(), student(recompute=True)
    saving.set_state_dict(plain.state_dict())
    images, mask = paddle.to_tensor(random_images().images), paddle.to_tensor(np.eye(4, 16, dtype=bool))
    for model in (plain, saving):
        model.train()
        sum(logits.square().mean() for logits in model(images, mask).values()).backward()
    for (name, one), other in zip(plain.named_parameters(), saving.parameters()):
        np.testing.assert_allclose(one.grad.numpy(), other.grad.numpy(), atol=1e-6, err_msg=name)
