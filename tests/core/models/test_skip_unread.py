# SPDX-License-Identifier: Apache-2.0
"""Pretraining computes only the tokens whose logits are asked for, with the same result."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beitv2_core.layers.block import Block
from beitv2_core.models.mim import BEiTForMaskedImageModeling
from beitv2_core.models.skip_unread import SkipUnread

HEADS = {"no [CLS] head": {}, "[CLS] head": {"early_layers": 2}, "[CLS] head of the last block": {"early_layers": 3},
         "[CLS] head with its own classifier": {"early_layers": 1, "share_lm_head": False}}


def build(kind=SkipUnread, **head):
    paddle.seed(3)
    model = kind(image_size=32, patch_size=8, width=24, depth=3, num_heads=2, num_codes=10, init_values=0.1,
                 use_shared_rel_pos_bias=True, **head)
    for parameter in model.parameters():
        parameter.set_value(parameter + 0.2 * paddle.randn(parameter.shape))
    model.train()
    return model


def masks(*counts):
    mask = np.zeros((len(counts), 16), bool)
    for row, count in zip(mask, counts):
        row[np.random.RandomState(count).permutation(16)[:count]] = True
    return mask


def logits_and_gradients(model, images, mask):
    logits = model(images, mask)
    weights = {head: paddle.to_tensor(np.random.RandomState(1).randn(*value.shape).astype("float32"))
               for head, value in logits.items()}
    paddle.add_n([(value * weights[head]).sum() for head, value in logits.items()]).backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    model.clear_gradients()
    return {head: value.numpy() for head, value in logits.items()}, gradients


@pytest.fixture
def computed(monkeypatch):
    """Tokens an image that every block computed."""
    rows, original = [], Block.forward

    def counted(self, *args):
        out = original(self, *args)
        rows.append(out.shape[1])
        return out

    monkeypatch.setattr(Block, "forward", counted)
    return rows


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_skipping_unread_tokens_changes_no_logit_and_no_gradient(head, recompute):
    images, mask = paddle.randn([3, 3, 32, 32]), masks(5, 5, 5)
    ours, gradients = logits_and_gradients(build(**head, recompute=recompute), images, mask)
    plain, plain_gradients = logits_and_gradients(build(BEiTForMaskedImageModeling, **head), images, mask)
    assert set(ours) == set(plain) and set(gradients) == set(plain_gradients)
    for name, value in plain.items():
        np.testing.assert_allclose(ours[name], value, atol=2e-5, rtol=2e-5)
    for name, value in plain_gradients.items():
        np.testing.assert_allclose(gradients[name], value, atol=1e-4, rtol=2e-4, err_msg=name)


@pytest.mark.parametrize(("head", "tokens"), [({}, [17, 17, 5]), ({"early_layers": 2}, [17, 17, 6, 17, 5]),
                                              ({"early_layers": 3}, [17, 17, 17, 17, 5])])
def test_the_last_blocks_compute_only_what_is_read_of_them(head, tokens, computed):
    images, mask = paddle.randn([3, 3, 32, 32]), masks(5, 5, 5)
    build(**head)(images, mask)
    assert computed == tokens
    computed.clear()
    build(BEiTForMaskedImageModeling, **head)(images, mask)
    assert computed == [17] * len(tokens)


@pytest.mark.parametrize("counts", [(4, 6, 5), (3, 0, 6)])
def test_images_that_hide_unequal_numbers_of_patches(counts):
    model, images, mask = build(early_layers=2), paddle.randn([3, 3, 32, 32]), masks(*counts)
    logits, every = model(images, mask), model.all_logits(images, paddle.to_tensor(mask))
    for head, value in logits.items():
        np.testing.assert_allclose(value.numpy(), every[head].numpy()[mask], atol=1e-5)


@pytest.mark.parametrize("kind", [SkipUnread, BEiTForMaskedImageModeling])
@pytest.mark.parametrize("counts", [(5, 5, 5), (4, 6, 5), (3, 0, 6)])
def test_a_mask_is_a_tensor_or_the_array_it_was_made_of(kind, counts):
    model, images, mask = build(kind, early_layers=2), paddle.randn([3, 3, 32, 32]), masks(*counts)
    for head, value in model(images, mask).items():
        assert value.shape == [sum(counts), 10]
        np.testing.assert_array_equal(value.numpy(), model(images, paddle.to_tensor(mask))[head].numpy())


def test_names_and_weights_are_the_plain_models():
    ours, plain = build(early_layers=2), build(BEiTForMaskedImageModeling, early_layers=2)
    assert {name: value.numpy().tobytes() for name, value in ours.state_dict().items()} == {
        name: value.numpy().tobytes() for name, value in plain.state_dict().items()}
