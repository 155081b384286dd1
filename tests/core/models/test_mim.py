# SPDX-License-Identifier: Apache-2.0
"""Pretraining computes only the tokens whose logits are asked for, with the same result."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beitv2_core.models.mim import BEiTForMaskedImageModeling

HEADS = {"no [CLS] head": {}, "[CLS] head": {"early_layers": 2}, "[CLS] head of the last block": {"early_layers": 3},
         "[CLS] head with its own classifier": {"early_layers": 1, "share_lm_head": False}}


def build(**head):
    paddle.seed(3)
    model = BEiTForMaskedImageModeling(image_size=32, patch_size=8, width=24, depth=3, num_heads=2, num_codes=10,
                                       init_values=0.1, use_shared_rel_pos_bias=True, **head)
    for parameter in model.parameters():
        parameter.set_value(parameter + 0.2 * paddle.randn(parameter.shape))
    model.train()
    return model


def masks(*counts):
    mask = np.zeros((len(counts), 16), bool)
    for row, count in zip(mask, counts):
        row[np.random.RandomState(count).permutation(16)[:count]] = True
    return paddle.to_tensor(mask)


def logits_and_gradients(model, images, mask):
    logits = model(images, mask)
    weights = {head: paddle.to_tensor(np.random.RandomState(1).randn(*value.shape).astype("float32"))
               for head, value in logits.items()}
    paddle.add_n([(value * weights[head]).sum() for head, value in logits.items()]).backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    model.clear_gradients()
    return {head: value.numpy() for head, value in logits.items()}, gradients


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_skipping_unread_tokens_changes_no_logit_and_no_gradient(head, recompute):
    model, images, mask = build(**head, recompute=recompute), paddle.randn([3, 3, 32, 32]), masks(5, 5, 5)
    assert model._tokens_to_read(paddle.nonzero(mask.reshape([-1])).flatten(), mask) is not None
    ours, gradients = logits_and_gradients(model, images, mask)
    model.skip_unread = False
    plain, plain_gradients = logits_and_gradients(model, images, mask)
    for name, value in plain.items():
        np.testing.assert_allclose(ours[name], value, atol=2e-5, rtol=2e-5)
    for name, value in plain_gradients.items():
        np.testing.assert_allclose(gradients[name], value, atol=1e-4, rtol=2e-4, err_msg=name)


@pytest.mark.parametrize("counts", [(4, 6, 5), (3, 0, 6)])
def test_images_that_hide_unequal_numbers_of_patches(counts):
    model, images, mask = build(early_layers=2), paddle.randn([3, 3, 32, 32]), masks(*counts)
    logits, every = model(images, mask), model.all_logits(images, mask)
    for head, value in logits.items():
        np.testing.assert_allclose(value.numpy(), every[head].numpy()[mask.numpy()], atol=1e-5)
