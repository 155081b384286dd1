# SPDX-License-Identifier: Apache-2.0
"""CLIP and DINO: sizes from the weights, names and layouts of their files, precision, missing weights."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import paddle
import pytest

from beitv2_core.errors import ConfigError, WeightsError
from beitv2_core.teachers import TEACHERS, build_teacher
from beitv2_core.teachers.clip import CLIPTeacher, CLIPVisual, visual_from_state
from beitv2_core.teachers.dino import DINOTeacher, DINOVisionTransformer, vit_from_state
from beitv2_core.weights.published.registry import find_model


def official_state(layer, prefix="") -> dict[str, np.ndarray]:
    """Weights of one of our networks under the layout of the official files."""
    state = {}
    for name, tensor in layer.state_dict().items():
        array = tensor.numpy()
        turned = array.ndim == 2 and name.endswith((".weight", "in_proj_weight"))
        state[prefix + name] = array.T if turned else array
    return state


def clip_visual():
    return CLIPVisual(image_size=16, patch_size=4, width=12, depth=2, num_heads=3, out_width=5)


def dino_vit():
    return DINOVisionTransformer(image_size=16, patch_size=4, width=12, depth=2, num_heads=3)


@pytest.fixture
def images():
    return paddle.rand([2, 3, 16, 16])


def test_clip_finds_its_sizes_in_the_state_and_ignores_the_text_tower(images):
    visual = clip_visual()
    state = official_state(visual, "visual.")
    state.update({"logit_scale": np.float32(1), "transformer.resblocks.0.ln_1.bias": np.zeros(4, np.float32)})
    copy = visual_from_state(state, num_heads=3)
    np.testing.assert_array_equal(copy(images).numpy(), visual(images).numpy())


def test_dino_finds_its_sizes_in_a_backbone_or_a_training_checkpoint(images):
    vit = dino_vit()
    expected = vit(images).numpy()
    np.testing.assert_array_equal(vit_from_state(official_state(vit), num_heads=3)(images).numpy(), expected)
    state = official_state(vit, "module.backbone.")
    state["module.head.mlp.0.weight"] = np.zeros((4, 12), np.float32)
    np.testing.assert_array_equal(vit_from_state({"teacher": state, "epoch": 3}, num_heads=3)(images).numpy(), expected)


@pytest.mark.parametrize("name, make, prefix", [("clip", clip_visual, "visual."), ("dino", dino_vit, "")])
def test_a_teacher_is_built_from_a_file_whose_hash_is_checked(tmp_path, images, name, make, prefix):
    net, path = make(), tmp_path / "teacher.pth"
    path.write_bytes(pickle.dumps(official_state(net, prefix)))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    sizes = {"image_size": 16, "patch_size": 4, "num_heads": 3}
    teacher = build_teacher(name, weights=str(path), sha256=digest, **sizes)
    np.testing.assert_allclose(teacher(images).numpy(), net(teacher.normalise(images)).numpy(), atol=1e-6)
    with pytest.raises(WeightsError, match=digest):
        build_teacher(name, weights=str(path), sha256="0" * 64, **sizes)


@pytest.mark.parametrize("build, make", [(visual_from_state, clip_visual), (vit_from_state, dino_vit)])
def test_half_precision_weights_become_single_precision(build, make):
    state = {name: array.astype(np.float16) for name, array in official_state(make()).items()}
    net = build(state, num_heads=3)
    assert {str(value.dtype).rsplit(".", 1)[-1] for value in net.state_dict().values()} == {"float32"}


@pytest.mark.parametrize("build, make", [(visual_from_state, clip_visual), (vit_from_state, dino_vit)])
def test_missing_and_unexpected_names_are_listed(build, make):
    state = official_state(make())
    gone = next(name for name in state if name.endswith("bias"))
    del state[gone]
    state["extra.scale"] = np.zeros(2, np.float32)
    with pytest.raises(WeightsError, match=rf"missing: {gone}.*unexpected: extra\.scale"):
        build(state, num_heads=3)


@pytest.mark.parametrize("build", [visual_from_state, vit_from_state])
def test_a_file_of_another_model_is_refused_with_the_expected_address(build):
    with pytest.raises(WeightsError, match="https://"):
        build({"blocks.0.norm1.weight": np.zeros(3, np.float32)}, source="other.pth")


def test_missing_weights_say_where_to_get_them():
    with pytest.raises(WeightsError, match=f"openaipublic.*ViT-B-16.pt.*{find_model('clip_vit_b16').sha256}"):
        build_teacher("clip", image_size=224, patch_size=16)
    with pytest.raises(WeightsError, match="dl.fbaipublicfiles.com/dino/.*dino_vitbase16_pretrain.pth"):
        build_teacher("dino", image_size=224, patch_size=16)


@pytest.mark.parametrize("teacher, net", [(CLIPTeacher, clip_visual), (DINOTeacher, dino_vit)])
def test_a_teacher_follows_the_tokenizer_grid_whatever_its_own_patch(teacher, net):
    built = teacher(net(), image_size=(48, 32), patch_size=8)
    features = built(paddle.rand([1, 3, 48, 32]))
    assert built.grid == (6, 4) and built.input_size == (24, 16)
    assert list(features.shape) == [1, 24, built.width]
    assert all(parameter.stop_gradient for parameter in built.parameters())


def test_the_mean_image_is_black_nowhere_and_zero_for_clip():
    built = CLIPTeacher(clip_visual(), image_size=16, patch_size=4)
    mean = paddle.to_tensor(CLIPTeacher.mean).reshape([1, 3, 1, 1]).expand([1, 3, 16, 16])
    assert float(built.normalise(mean).abs().max()) < 1e-6


def test_an_unknown_teacher_lists_the_known_ones():
    with pytest.raises(ConfigError, match=f"'clipp'.*{', '.join(TEACHERS)}.*beitv2.teachers"):
        build_teacher("clipp", image_size=32, patch_size=8)


def test_an_unknown_option_lists_the_teachers_own():
    with pytest.raises(ConfigError, match="'hog'.*binz.*num_orientations"):
        build_teacher("hog", image_size=32, patch_size=8, binz=3)


def test_an_installed_package_adds_a_teacher_but_cannot_replace_ours(offer):
    import beitv2_core.teachers as teachers

    def build(*, image_size, **_):
        return "third party", image_size

    offer("beitv2.teachers", mine=build, hog=build)
    assert build_teacher("mine", image_size=32, patch_size=8) == ("third party", 32)
    assert isinstance(build_teacher("hog", image_size=32, patch_size=8), teachers.HOGTeacher)
    with pytest.raises(ConfigError, match=f"Known: {', '.join(TEACHERS)}, mine;"):
        build_teacher("sam", image_size=32, patch_size=8)
