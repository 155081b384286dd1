# SPDX-License-Identifier: Apache-2.0
"""What every teacher is: frozen, given images in [0, 1], answering with one feature vector a patch.

Shape suffixes: B batch, N patches, C channels of a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from beitv2_core.errors import ShapeError, WeightsError
from beitv2_core.layers.interpolate import bicubic_resize
from beitv2_core.pixels.size import pair
from beitv2_core.weights.converted import is_converted, without_kept
from beitv2_core.weights.identify import tensors_of
from beitv2_core.weights.kind import Kind
from beitv2_core.weights.reading.foreign import read_state

Size = tuple[int, int]


class Teacher(nn.Layer):
    """A frozen network whose patch features the tokenizer learns to reconstruct; subclasses write `features`.

    image_size, patch_size: pixels of the images and of the tokenizer's patches; together they fix `grid`.
    width: channels of a feature.  input_size: pixels of the network's input, None for the images' own size.
    mean, std: normalisation of each colour, None to leave images in [0, 1].
    """

    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    def __init__(self, *, image_size: int | Sequence[int], patch_size: int | Sequence[int], width: int,
                 input_size: int | Sequence[int] | None = None):
        super().__init__()
        self.image_size, self.patch_size, self.width = pair(image_size), pair(patch_size), int(width)
        self.grid = grid_of(type(self).__name__, self.image_size, self.patch_size)
        self.input_size = self.image_size if input_size is None else pair(input_size)

    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        """Features (B, N, width), float32, row by row, without gradient, of images (B, 3, H, W) in [0, 1].

        Resizes (bicubic) and normalises for itself; values outside [0, 1] are clamped, as the official code does.
        Raises ShapeError where the images have not three colours.  Source: official modeling_vqkd.py,
        get_regress_target.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ShapeError(
                f"{type(self).__name__}: images have shape {list(images.shape)}, expected (batch, 3, height, width) "
                "in [0, 1]. Convert them to RGB first."
            )
        with paddle.no_grad():
            images = images.astype("float32")
            if tuple(images.shape[2:]) != self.input_size:
                images = bicubic_resize(images, self.input_size)
            return self.features(self.normalise(images.clip(0.0, 1.0))).astype("float32")

    def features(self, images: paddle.Tensor) -> paddle.Tensor:
        """Features (B, N, width) of normalised images of `input_size`."""
        raise NotImplementedError(f"{type(self).__name__} has no `features`: a teacher must define it.")

    def normalise(self, images: paddle.Tensor) -> paddle.Tensor:
        """Images in [0, 1] as the network reads them.  Source: official modeling_vqkd.py, ScalingLayer*."""
        if self.mean is None or self.std is None:
            return images
        shift = paddle.to_tensor(self.mean, dtype="float32").reshape([1, 3, 1, 1])
        return (images - shift) / paddle.to_tensor(self.std, dtype="float32").reshape([1, 3, 1, 1])

    def identity(self) -> dict[str, Any]:
        """What the features depend on beside weights, options and sizes, in plain values: for a cache of features."""
        return {}

    def train(self) -> None:
        """Stay in eval mode: a teacher is never trained."""
        self.eval()

    def freeze(self) -> Teacher:
        """Take every parameter out of training and switch to eval mode; returns the teacher."""
        for parameter in self.parameters():
            parameter.stop_gradient = True
        self.eval()
        return self


def grid_of(who: str, image_size: Size, patch_size: Size) -> Size:
    """(rows, columns) of patches; ShapeError where the image is no whole number of them."""
    if any(i < p or i % p for i, p in zip(image_size, patch_size)):
        raise ShapeError(
            f"{who}: images of {image_size[0]} x {image_size[1]} are no whole number of patches of "
            f"{patch_size[0]} x {patch_size[1]}. Choose an image size that is a multiple of the patch size."
        )
    return image_size[0] // patch_size[0], image_size[1] // patch_size[1]


def resize_positions(table: paddle.Tensor, grid: Size) -> paddle.Tensor:
    """A position table (1 + n * n, D) of a square grid, class token first, for another grid: (1 + rows * columns, D).

    Source: official vqkd_teacher/clip/model.py and dino.py, interpolate_pos_encoding (scale (rows + 0.1) / n).
    """
    side = round((table.shape[0] - 1) ** 0.5)
    patches = table[1:].reshape([side, side, -1])
    scale = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
    return paddle.concat([table[:1], bicubic_resize(patches, grid, scale).reshape([grid[0] * grid[1], -1])])


def square_side(who: str, table: Any) -> int:
    """Side of the square grid a position table (1 + n * n, D) was made for; WeightsError when it is not square."""
    count = int(table.shape[-2]) - 1
    side = round(max(count, 0) ** 0.5)
    if side < 1 or side * side != count:
        raise WeightsError(
            f"{who}: the position table has {count} patches, which is no square. Expected a ViT of square images."
        )
    return side


def file_state(kind: Kind, path: Path,
               names_back: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]) -> dict[str, Any]:
    """A weights file's tensors under the names of the teacher's authors; `names_back` gives those of a converted file.

    Containers and wrappers before the names are taken off.
    Raises CheckpointError where the file is no weights file, damaged or unsafe; nothing in it is executed.
    """
    state, rest = read_state(path)
    return names_back(without_kept(state)) if is_converted(rest) else tensors_of(kind, state)


def load_strict(layer: nn.Layer, state: Mapping[str, np.ndarray], source: str) -> None:
    """Put every array in its place, or raise WeightsError listing what is missing, unexpected or of another shape."""
    own = layer.state_dict()
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = [f"{name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}" for name in own
              if name in state and tuple(own[name].shape) != tuple(state[name].shape)]
    if missing or unexpected or shapes:
        parts = [f"{kind}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
                 for kind, names in (("missing", missing), ("unexpected", unexpected), ("shapes", shapes)) if names]
        raise WeightsError(f"{source}: not the weights of this {type(layer).__name__}; {'; '.join(parts)}.")
    for name, tensor in own.items():
        tensor.set_value(np.ascontiguousarray(state[name]).astype(np.float32))
