# SPDX-License-Identifier: Apache-2.0
"""CLIP and DINO teachers: scaling, tokens and targets of the official code, at the trained and at other sizes."""

from __future__ import annotations

import paddle
import pytest
from golden_io import assert_close_output, group, load_golden

from beitv2_core.teachers.clip import CLIPTeacher, visual_from_state
from beitv2_core.teachers.dino import DINOTeacher, vit_from_state

SUBJECT = "teachers"


def unprocess(images: paddle.Tensor) -> paddle.Tensor:
    """Images in [0, 1] of the tokenizer's input in [-1, 1] (official modeling_vqkd.py, ScalingLayerForClip.forward)."""
    return ((images + 1.0) * 127.5).clip(0, 255.0) / 255.0


@pytest.fixture
def golden(fixture_path):
    return load_golden(fixture_path)


def build(golden, kind: str, size=None):
    arrays, meta = golden
    config = meta["config"]
    size, patch = size or config["img_size"], config["patch_size"]
    if kind == "clip":
        net = visual_from_state(group(arrays, "clip/state"), num_heads=config["clip_heads"])
        return CLIPTeacher(net, image_size=size, patch_size=patch)
    net = vit_from_state(group(arrays, "dino/state"), num_heads=config["dino_heads"])
    return DINOTeacher(net, image_size=size, patch_size=patch)


@pytest.mark.parametrize("kind, scaled", [("clip", "scaling/clip"), ("dino", "scaling/imagenet")])
def test_the_scaling_layers_match(golden, kind, scaled):
    arrays, _ = golden
    teacher = build(golden, kind)
    got = teacher.normalise(unprocess(paddle.to_tensor(arrays["input/x"])))
    assert_close_output(got, arrays[scaled], scaled)


def test_clip_tokens_match(golden):
    arrays, _ = golden
    visual, images = build(golden, "clip").visual, paddle.to_tensor(arrays["scaling/clip"])
    tokens = visual.tokens(images)
    assert_close_output(tokens[:, 1:], arrays["clip/all_tokens"], "clip/all_tokens")
    assert_close_output(paddle.matmul(tokens, visual.proj), arrays["clip/all_final_tokens"], "clip/all_final_tokens")
    assert_close_output(paddle.matmul(tokens[:, 0], visual.proj), arrays["clip/cls"], "clip/cls")
    assert_close_output(visual(images), arrays["clip/target"], "clip/target")


def test_dino_tokens_and_attention_match(golden):
    arrays, _ = golden
    vit, images = build(golden, "dino").vit, paddle.to_tensor(arrays["scaling/imagenet"])
    tokens = vit.tokens(images)
    assert_close_output(tokens, arrays["dino/all_tokens"], "dino/all_tokens")
    assert_close_output(tokens[:, 0], arrays["dino/cls"], "dino/cls")
    assert_close_output(vit(images), arrays["dino/patch_tokens"], "dino/patch_tokens")
    assert_close_output(vit.last_attention(images), arrays["dino/last_selfattention"], "dino/last_selfattention")


@pytest.mark.parametrize("kind", ["clip", "dino"])
def test_the_regression_target_matches(golden, kind):
    arrays, _ = golden
    teacher = build(golden, kind)
    got = teacher(unprocess(paddle.to_tensor(arrays["input/x"])))
    assert_close_output(got, arrays[f"regress_target/{kind}"], f"regress_target/{kind}")
    assert got.shape[1] == teacher.grid[0] * teacher.grid[1] and got.shape[2] == teacher.width


@pytest.mark.parametrize("kind, key", [("clip", "clip_target"), ("dino", "dino_patch_tokens")])
def test_other_image_sizes_match(golden, kind, key):
    arrays, meta = golden
    for height, width in meta["config"]["other_sizes"]:
        name = f"other_size/{height}x{width}"
        teacher = build(golden, kind, (height, width))
        got = teacher(unprocess(paddle.to_tensor(arrays[f"{name}/x"])))
        assert_close_output(got, arrays[f"{name}/{key}"], f"{name}/{key}")
