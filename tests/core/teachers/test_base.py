# SPDX-License-Identifier: Apache-2.0
"""Every teacher: frozen, clamped, resized input; position tables; strict loading."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beitv2_core.errors import ShapeError, WeightsError
from beitv2_core.teachers.base import Teacher, load_strict, resize_positions, square_side


class Colours(Teacher):
    """Sends back what it was shown: the mean colour of each patch."""

    def __init__(self, **sizes):
        super().__init__(width=3, **sizes)
        self.scale = self.create_parameter([1], default_initializer=paddle.nn.initializer.Constant(1.0))
        self.freeze()

    def features(self, images):
        self.seen = images
        pooled = paddle.nn.functional.adaptive_avg_pool2d(images, self.grid) * self.scale
        return pooled.flatten(2).transpose([0, 2, 1])


def test_a_teacher_reports_its_grid_and_width():
    teacher = Colours(image_size=(32, 48), patch_size=16)
    assert teacher.grid == (2, 3) and teacher.width == 3
    assert list(teacher(paddle.rand([2, 3, 32, 48])).shape) == [2, 6, 3]


def test_no_gradient_reaches_the_teacher_or_the_images():
    teacher, images = Colours(image_size=32, patch_size=16), paddle.rand([1, 3, 32, 32])
    images.stop_gradient = False
    assert teacher(images).stop_gradient
    assert all(parameter.stop_gradient for parameter in teacher.parameters())


def test_train_leaves_a_teacher_in_eval_mode():
    teacher = Colours(image_size=32, patch_size=16)
    teacher.train()
    assert not teacher.training


def test_images_of_another_size_are_resized_and_stay_in_range():
    teacher = Colours(image_size=32, patch_size=16, input_size=64)
    features = teacher((paddle.rand([2, 3, 32, 32]) > 0.5).astype("float32"))
    assert list(teacher.seen.shape) == [2, 3, 64, 64]
    assert float(teacher.seen.min()) >= 0 and float(teacher.seen.max()) <= 1
    assert list(features.shape) == [2, 4, 3]


def test_a_image_of_one_channel_is_refused_with_its_shape():
    with pytest.raises(ShapeError, match=r"\[2, 1, 32, 32\].*RGB"):
        Colours(image_size=32, patch_size=16)(paddle.rand([2, 1, 32, 32]))


def test_a_image_that_is_no_whole_number_of_patches_names_both_sizes():
    with pytest.raises(ShapeError, match="40 x 32.*16 x 16"):
        Colours(image_size=(40, 32), patch_size=16)


def test_a_method_without_features_says_so():
    with pytest.raises(NotImplementedError, match="features"):
        Teacher(image_size=32, patch_size=16, width=3)(paddle.rand([1, 3, 32, 32]))


def test_a_resized_position_table_keeps_the_class_token_and_smooth_positions():
    side = np.arange(4, dtype=np.float32)
    patches = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(16, 2)
    table = paddle.to_tensor(np.concatenate([[[7.0, 9.0]], patches]).astype(np.float32))
    resized = resize_positions(table, (8, 4)).numpy()
    assert resized.shape == (33, 2) and resized[0].tolist() == [7.0, 9.0]
    rows = resized[1:].reshape(8, 4, 2)
    assert (np.diff(rows[:, 0, 0]) > 0).all() and (np.diff(rows[0, :, 1]) > 0).all()
    assert abs(rows[..., 0].std(axis=1)).max() < 1e-5, "rows must not mix with columns"


def test_a_position_table_that_is_not_square_is_refused():
    with pytest.raises(WeightsError, match="11 patches"):
        square_side("net", np.zeros((12, 4)))


def test_strict_loading_lists_missing_unexpected_and_misshaped_names():
    layer = paddle.nn.Sequential(paddle.nn.Linear(2, 3), paddle.nn.Linear(3, 3))
    state = {name: tensor.numpy() for name, tensor in layer.state_dict().items()}
    state["0.weight"] = state["0.weight"].T
    del state["1.bias"]
    state["head.bias"] = np.zeros(3)
    with pytest.raises(WeightsError, match=r"x\.pth.*missing: 1\.bias.*unexpected: head\.bias.*0\.weight is \(3, 2\)"):
        load_strict(layer, state, "x.pth")
