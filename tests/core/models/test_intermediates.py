# SPDX-License-Identifier: Apache-2.0
"""Every intermediate can be fetched by name, on every device, and is what the layers give."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beitv2_core.errors import ShapeError
from beitv2_core.layers import block as block_file
from beitv2_core.models.backbone import BEiTBackbone
from beitv2_core.models.mim import BEiTForMaskedImageModeling

SETTINGS = dict(image_size=8, patch_size=4, width=12, depth=2, num_heads=2, init_values=0.5,
                use_shared_rel_pos_bias=True)
IMAGES = paddle.to_tensor(np.random.RandomState(0).randn(2, 3, 8, 8).astype("float32"))


def build(kind=BEiTBackbone, **changes):
    paddle.seed(2)
    model = kind(**{**SETTINGS, **changes})
    for parameter in model.parameters():
        parameter.set_value(parameter + 0.2 * paddle.randn(parameter.shape))
    model.eval()
    return model


def by_hand(model):
    """The trunk in plain calls of its layers."""
    x, bias = model.embed(IMAGES), model.shared_bias()
    found = {"embedding": x}
    for i, block in enumerate(model.blocks):
        normed = block.norm1(x)
        attention = block.attn(normed, bias)
        x = x + block.gamma_1 * attention
        mlp = block.mlp(block.norm2(x))
        found.update({f"block0{i}.norm1": normed, f"block0{i}.sa": attention, f"block0{i}.+sa": x})
        x = x + block.gamma_2 * mlp
        found.update({f"block0{i}.mlp": mlp, f"block0{i}": x})
    return found, x


@pytest.mark.parametrize("norm", ["final", "pool", "none"])
def test_all_of_a_trunk_are_those_of_a_plain_computation(norm):
    model = build(norm=norm)
    expected, last = by_hand(model)
    expected["pre_logits"] = model.fc_norm(last[:, 1:].mean(1)) if norm == "pool" else model.normalise(last)
    with model.intermediates() as out:
        answer = model(IMAGES)
    assert set(out) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(out[name].numpy(), value.numpy(), atol=3e-6, err_msg=name)
    np.testing.assert_allclose(answer.numpy(), model(IMAGES).numpy(), atol=3e-6)


def test_only_blocks_that_are_listened_to_leave_their_fast_form_and_only_inside(monkeypatch):
    model, fast, original = build(), [], block_file.block_on_cpu
    monkeypatch.setattr(block_file, "block_on_cpu", lambda block, *rest: fast.append(block) or original(block, *rest))
    before = model(IMAGES).numpy()
    assert fast == list(model.blocks)
    fast.clear()
    with model.intermediates("block01.*", "block00") as out:
        model(IMAGES)
    assert fast == [model.blocks[0]], "a block's own output needs no layer of it"
    assert set(out) == {"block00", "block01.norm1", "block01.sa", "block01.+sa", "block01.mlp"}
    fast.clear()
    np.testing.assert_array_equal(model(IMAGES).numpy(), before)
    assert fast == list(model.blocks) and len(out) == 5, "nothing is written after the context"


def test_gradients_flow_through_what_was_fetched():
    model = build()
    with model.intermediates("block00.sa") as out:
        model(IMAGES)
    out["block00.sa"].sum().backward()
    assert model.blocks[0].attn.proj.weight.grad is not None and model.blocks[1].attn.proj.weight.grad is None


@pytest.mark.parametrize("shared", [True, False])
def test_the_heads_of_pretraining_have_names_of_their_own(shared):
    model = build(BEiTForMaskedImageModeling, num_codes=5, early_layers=1, head_layers=1, share_lm_head=shared)
    with model.intermediates() as out:
        logits = model.all_logits(IMAGES)
    tokens = model.head_tokens(IMAGES)
    for head, name in (("mim", "pre_logits"), ("cls", "cls_pt.pre_logits")):
        np.testing.assert_allclose(out[name].numpy(), tokens[head].numpy(), atol=3e-6)
        np.testing.assert_allclose(model.classify(head, model.raw_tokens(IMAGES)[head])[:, 1:].numpy(),
                                   logits[head].numpy(), atol=3e-6)
    np.testing.assert_allclose(out["cls_pt00"].numpy(), model.raw_tokens(IMAGES)["cls"].numpy(), atol=3e-6)
    assert out["cls_pt00.sa"].shape == [2, 5, 12]
    with model.intermediates("cls_pt.pre_logits") as one:
        model.all_logits(IMAGES)
    assert set(one) == {"cls_pt.pre_logits"}
    np.testing.assert_allclose(one["cls_pt.pre_logits"].numpy(), tokens["cls"].numpy(), atol=3e-6)


def test_a_name_that_does_not_exist_is_told_before_anything_runs():
    with pytest.raises(ShapeError, match=r"no name fits 'block02.sa'. Names: embedding, block00.norm1, "):
        with build().intermediates("block02.sa"):
            pytest.fail("the context was entered")
