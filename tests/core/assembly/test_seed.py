# SPDX-License-Identifier: Apache-2.0
"""`seed` reaches every draw of a run: another seed changes it, the same seed repeats it."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beitv2_core.assembly import build_training
from beitv2_core.assembly.restore import save_untrained
from beitv2_core.config import parse_config
from beitv2_core.engine.seeding import seed_step
from beitv2_core.models.kmeans import pick_samples

TRUNK = {"width": 24, "depth": 2, "num_heads": 2}
COMMON = {"data": {"dataset": "digit_scenes", "size": 24, "image_size": 16, "crop_scale": [0.2, 1.0]},
          "optim": {"lr": 1e-3, "steps": 4}, "train": {"batch_size": 8, "log_every": 1}}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    config = tokenizer_settings(0, tmp_path_factory.mktemp("tokenizer"), teacher={"name": "none"})
    save_untrained(config, teacher_width=5)
    return config.output


def tokenizer_settings(seed, output="none", **changes):
    return parse_config({
        "kind": "tokenizer", "seed": seed, "output": str(output), **COMMON, "encoder": {**TRUNK, "patch_size": 4},
        "decoder": TRUNK, "quantizer": {"num_codes": 40, "code_dim": 8, "kmeans_init": False},
        "health": {"revive_after": 1}, "teacher": {"name": "hog"}, **changes})


def pretraining_loop(seed, tokenizer):
    return build_training(parse_config({
        "kind": "pretrain", "seed": seed, "output": "none", **COMMON, "tokenizer": {"weights": tokenizer},
        "model": {**TRUNK, "patch_size": 4, "early_layers": 1, "drop_path": 0.5, "drop_rate": 0.3},
        "mask": {"num_masked": 6, "min_block": 2}}))


def weights(seed, tokenizer):
    return pretraining_loop(seed, tokenizer).task.model.blocks[0].attn.qkv.weight.numpy()


def codebook(seed, tokenizer):
    return build_training(tokenizer_settings(seed)).task.model.quantize.codebook.numpy()


def order_of_images(seed, tokenizer):
    return np.array(next(iter(pretraining_loop(seed, tokenizer).loader)).paths)


def of_one_image(seed, tokenizer):
    """Crop and mask of image 3, wherever it stands in the order."""
    loader = pretraining_loop(seed, tokenizer).loader
    made = loader.transform(loader.dataset.load(3), sample_rng(loader.seed))
    return np.concatenate([np.ravel(made["patch_view"]), np.ravel(made["mask"])])


def sample_rng(seed):
    from beitv2_core.data.rng import SampleRng
    return SampleRng.for_sample(seed, 0, 3)


def start_of_kmeans(seed, tokenizer):
    loop = pretraining_loop(seed, tokenizer)
    seed_step(loop.seed, loop.step, 0)
    return pick_samples(paddle.arange(50).unsqueeze(-1).astype("float32"), 10).numpy()


def dropout_and_drop_path(seed, tokenizer):
    loop = pretraining_loop(seed, tokenizer)
    block = loop.task.model.blocks[1]
    block.train()
    seed_step(loop.seed, loop.step, 0)
    return np.stack([block.mlp.drop(paddle.ones([8, 24])).numpy(),
                     block.drop_path(paddle.ones([8, 24])).numpy()])


def mixing(seed, tokenizer):
    loop = pretraining_loop(seed, tokenizer)
    seed_step(loop.seed, loop.step, 0)
    return np.random.rand(3)  # what mixup draws from


def revived_codes(seed, tokenizer):
    """Codes of one and the same model, after one step with one and the same batch."""
    fixed, task = (build_training(tokenizer_settings(of)).task for of in (0, seed))
    task.model.set_state_dict(fixed.model.state_dict())
    task.model.train()
    task.loss(next(iter(build_training(tokenizer_settings(0)).loader)), step=5)
    assert task.revived > 10
    return task.model.quantize.codebook.numpy()


DRAWS = (weights, codebook, order_of_images, of_one_image, start_of_kmeans, dropout_and_drop_path, mixing,
         revived_codes)


@pytest.mark.parametrize("drawn", DRAWS, ids=lambda function: function.__name__)
def test_another_seed_changes_the_draw_and_the_same_seed_repeats_it(drawn, tokenizer):
    one, again, other = (drawn(seed, tokenizer) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, again)
    assert one.shape == other.shape and not np.array_equal(one, other)
