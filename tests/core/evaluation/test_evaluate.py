# SPDX-License-Identifier: Apache-2.0
"""Numbers about codes, masks and features."""

from __future__ import annotations

import logging

import numpy as np
import paddle
import pytest
import threadpoolctl

from beitv2_core.evaluation import evaluate
from beitv2_core.evaluation.evaluate import codebook_stats, cut_patches, linear_probe, masked_code_accuracy
from beitv2_core.models.mim import BEiTForMaskedImageModeling


def test_perplexity_of_equal_use_is_the_number_of_used_codes():
    stats = codebook_stats(np.array([5, 5, 0, 5, 5]))
    assert stats.perplexity == pytest.approx(4)
    assert (stats.used, stats.most_frequent) == (0.8, 0.25)


def test_an_unused_codebook_is_not_a_division_by_zero():
    stats = codebook_stats(np.zeros(4, dtype=np.int64))
    assert (stats.used, stats.perplexity, stats.most_frequent) == (0, 0, 0)


def test_patches_are_cut_row_by_row_with_their_pixels():
    image = np.arange(4 * 6 * 3).reshape(4, 6, 3) % 256
    unit = (image / 255).astype("float32").transpose(2, 0, 1)[None]
    patches = cut_patches(unit, (2, 3))
    assert patches.shape == (1, 6, 2, 2, 3)
    assert np.array_equal(patches[0, 4], image[2:4, 2:4])


class CodeIsBrightness:
    num_codes, grid = 2, (2, 2)

    def tokenize(self, images):
        return self.nearest_codes(self.features(images)).reshape([-1, 4])

    def features(self, images):
        bright = images.reshape([len(images), 3, 2, 4, 2, 4]).mean(axis=[1, 3, 5]).reshape([-1, 4, 1])
        return paddle.concat([1 - bright, bright], axis=-1)

    def nearest_codes(self, features):
        return features.reshape([-1, 2]).argmax(-1)

    @property
    def quantize(self):
        return self

    codebook = paddle.to_tensor([[1.0, 0.0], [0.0, 1.0]])


def test_a_perfect_head_scores_one_and_a_constant_head_the_share_of_its_code():
    tokenizer = CodeIsBrightness()
    draws = np.random.RandomState(0)
    blocks = draws.rand(20, 1, 2, 2) > 0.3
    scenes = np.repeat(np.repeat(np.repeat(blocks, 3, 1), 4, 2), 4, 3).astype("float32")
    class Student:
        def __call__(self, images, mask):
            codes = tokenizer.tokenize((images > 0).astype("float32")).numpy()[mask.numpy()]
            perfect = np.eye(2, dtype="float32")[codes]
            constant = np.tile(np.float32([[0, 1]]), (len(codes), 1))
            return {"mim": paddle.to_tensor(perfect), "cls": paddle.to_tensor(constant)}

    def masking(rng):
        mask = np.zeros((2, 2), dtype=bool)
        mask.flat[rng.numpy.choice(4, 2, replace=False)] = True
        return mask

    result = masked_code_accuracy(Student(), tokenizer, masking, [(scenes, np.zeros(20))])
    assert result.patches == 40
    assert result.heads["mim"] == 1.0
    assert result.heads["cls"] == pytest.approx(result.most_frequent)


def test_images_whose_masks_hide_nothing_add_nothing_to_the_accuracy():
    student = BEiTForMaskedImageModeling(num_codes=2, image_size=8, patch_size=4, width=8, depth=1, num_heads=2)
    images, masks = np.zeros((3, 3, 8, 8), dtype="float32"), iter(np.eye(6, 4, dtype=bool)[[0, 1, 2, 5, 5, 5]])
    batches = [(images, None), (images, None)]
    result = masked_code_accuracy(student, CodeIsBrightness(), lambda rng: next(masks).reshape(2, 2), batches)
    assert result.patches == 3 and result.heads["mim"] in (0.0, 1 / 3, 2 / 3, 1.0)


def test_a_probe_reads_a_linear_label_and_nothing_else():
    pytest.importorskip("sklearn")
    draws = np.random.RandomState(0)
    features = draws.randn(400, 8).astype("float32")
    labels = (features[:, 3] > 0).astype("int64")
    split = slice(0, 300), slice(300, 400)
    assert linear_probe((features[split[0]], labels[split[0]]), (features[split[1]], labels[split[1]])) > 0.9
    noise = draws.randint(0, 2, 400)
    assert linear_probe((features[split[0]], noise[split[0]]), (features[split[1]], noise[split[1]])) < 0.7


@pytest.mark.parametrize(("many", "threads"), [(2**26, 1), (10, None)])
def test_a_small_probe_is_fitted_in_one_thread(monkeypatch, many, threads):
    asked, limits = [], threadpoolctl.threadpool_limits

    def ask(limit, **kwargs):
        asked.append((limit, kwargs))
        return limits(limit, **kwargs)

    monkeypatch.setattr(threadpoolctl, "threadpool_limits", ask)
    monkeypatch.setattr(evaluate, "MANY_PRODUCTS", many)
    part = np.random.RandomState(0).randn(20, 3), np.arange(20) % 2
    linear_probe(part, part)
    assert (threads, {"user_api": "blas"}) in asked


def test_a_probe_that_does_not_converge_is_one_line_of_the_log(monkeypatch, caplog, recwarn):
    monkeypatch.setattr(evaluate, "PROBE_ROUNDS", 1)
    draws = np.random.RandomState(0)
    part = draws.randn(60, 8), draws.randint(0, 3, 60)
    with caplog.at_level(logging.INFO, "beitv2_core"):
        linear_probe(part, part)
    assert "1 rounds did not reach the optimum" in caplog.text
    assert not [one for one in recwarn if one.category.__name__ == "ConvergenceWarning"]
