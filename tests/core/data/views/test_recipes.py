# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from beitv2_core.data import EvalTransform, MimTransform, Sample, SampleRng, TokenizerTransform
from beitv2_core.data.views.colour import ColorJitter
from beitv2_core.data.views.transforms import IMAGENET_MEAN, IMAGENET_STD, RandomHorizontalFlip, TwoViewCrop
from beitv2_core.data.workers import stack_samples
from beitv2_core.masking import BlockwiseMasking


def sample(seed=0, label=3):
    pixels = np.random.RandomState(seed).randint(0, 256, (40, 50, 3), dtype=np.uint8)
    return Sample(Image.fromarray(pixels), label, f"{seed}.png", None)


def make_batch(transform, count=4):
    return transform.batch(stack_samples([transform(sample(i), SampleRng.for_sample(0, 0, i)) for i in range(count)]))


@pytest.mark.parametrize("size", [(50, 40), (33, 47), (3, 90), (90, 1)])
def test_pretraining_jitters_flips_crops_and_masks_in_the_official_order_pixel_for_pixel(size):
    masking = BlockwiseMasking((4, 4), 7, min_block=2)
    pixels = np.random.RandomState(0).randint(0, 256, (*size[::-1], 3), dtype=np.uint8)
    sample = Sample(Image.fromarray(pixels), 3, "0.png", None)
    for seed in range(40):
        got = MimTransform(32, masking, token_size=16)(sample, SampleRng.from_seed(seed))
        rng = SampleRng.from_seed(seed)
        image = RandomHorizontalFlip()(ColorJitter()(sample.image, rng), rng)
        patch_view, token_view = TwoViewCrop(32, 16, scale=(0.2, 1.0))(image, rng)
        np.testing.assert_array_equal(got["patch_view"], np.asarray(patch_view))
        np.testing.assert_array_equal(got["token_view"], np.asarray(token_view))
        np.testing.assert_array_equal(got["mask"].reshape(4, 4), masking(rng))


def test_fixed_views_come_round_again_under_new_masks_and_are_numbered():
    masking = BlockwiseMasking((4, 4), 7, min_block=2)
    plain, fixed = MimTransform(32, masking, token_size=16), MimTransform(32, masking, token_size=16, views=2)
    epochs = [fixed(sample(), SampleRng.for_sample(9, epoch, 5)) for epoch in range(6)]
    for epoch, got in enumerate(epochs):
        new = plain(sample(), SampleRng.for_sample(9, epoch % 2, 5))
        for view in ("patch_view", "token_view"):
            np.testing.assert_array_equal(got[view], new[view])
        assert got["row"] == 5 * 2 + epoch % 2
    assert (epochs[0]["patch_view"] != epochs[1]["patch_view"]).any()
    assert len({got["mask"].tobytes() for got in epochs}) > 3
    assert fixed.batch(stack_samples(epochs[:3])).rows.tolist() == [10, 11, 10]
    assert plain.batch(stack_samples([plain(sample(), SampleRng.for_sample(9, 0, 5))])).rows.size == 0


def test_mim_batch_has_the_promised_shapes_and_both_views_agree():
    batch = make_batch(MimTransform(32, BlockwiseMasking((4, 4), 7, min_block=2)))
    assert batch.patch_view.shape == batch.token_view.shape == (4, 3, 32, 32)
    assert batch.patch_view.dtype == batch.token_view.dtype == np.float32
    assert batch.mask.shape == (4, 16) and batch.mask.dtype == bool and (batch.mask.sum(1) == 7).all()
    assert batch.paths == ["0.png", "1.png", "2.png", "3.png"]
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    np.testing.assert_allclose(batch.patch_view * std + mean, batch.token_view, atol=1e-6)
    assert 0 <= batch.token_view.min() and batch.token_view.max() <= 1


def test_views_of_different_size_are_both_kept():
    batch = make_batch(MimTransform(32, BlockwiseMasking((4, 4), 7, min_block=2), token_size=(16, 24), jitter=None))
    assert batch.patch_view.shape == (4, 3, 32, 32) and batch.token_view.shape == (4, 3, 16, 24)


def test_tokenizer_batch_is_in_zero_to_one_and_not_recoloured():
    batch = make_batch(TokenizerTransform((16, 24)))
    assert batch.images.shape == (4, 3, 16, 24) and batch.images.dtype == np.float32
    assert 0 <= batch.images.min() and batch.images.max() <= 1
    flat = Sample(Image.new("RGB", (20, 20), (10, 200, 30)), None, "flat", None)
    image = TokenizerTransform(8)(flat, SampleRng.from_seed(0))["image"]
    assert (image == np.array([10, 200, 30])).all()


def test_evaluation_carries_labels_and_marks_missing_ones():
    transform = EvalTransform(16)
    batch = transform.batch(stack_samples([transform(sample(label=2)), transform(sample(label=None))]))
    assert batch.images.shape == (2, 3, 16, 16) and batch.labels.tolist() == [2, -1]
