# SPDX-License-Identifier: Apache-2.0
"""Any network with one output of patch features as a teacher, from its file.

Shape suffixes: B batch, C channels of a feature, h and w rows and columns of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Optional, Union

import numpy as np
import paddle

from beitv2_core import runtime
from beitv2_core.errors import ConfigError, WeightsError
from beitv2_core.pixels.imagenet import IMAGENET_MEAN, IMAGENET_STD
from beitv2_core.pixels.size import pair
from beitv2_core.teachers.base import Size, Teacher, grid_of
from beitv2_core.teachers.graph import Graph, choose_output, images_at_once, open_graph
from beitv2_core.teachers.maps import check_fit, fit_map

#: name of a layout -> its axes
LAYOUTS = {"nchw": "(batch, channels, rows, columns)", "nhwc": "(batch, rows, columns, channels)",
           "tokens": "(batch, tokens, channels)"}
#: tokens before those of the patches that a message proposes: [CLS] and registers, not another grid
MOST_LEADING = 16
Numbers = Union[float, Sequence[float]]


class Layout(NamedTuple):
    """How an output is read: name, tokens before those of the patches, grid (rows, columns), channels."""

    name: str
    leading: int
    grid: Size
    width: int

    def as_map(self, output: np.ndarray) -> paddle.Tensor:
        """The output as a map (B, C, h, w), float32."""
        values = paddle.to_tensor(np.ascontiguousarray(output, dtype=np.float32))
        if self.name == "nchw":
            return values
        if self.name == "tokens":
            values = values[:, self.leading:].reshape([values.shape[0], *self.grid, self.width])
        return values.transpose([0, 3, 1, 2])


class FileTeacher(Teacher):
    """Patch features of a network that is there as a graph only.

    images are resized to `input_size`, multiplied by `scale`, then (x - mean) / std; the output is read in `layout` and
    brought to the tokenizer's grid by `fit` (`maps.fit_map`).
    """

    def __init__(self, graph: Graph, layout: Layout, *, image_size: int | Sequence[int],
                 patch_size: int | Sequence[int], input_size: Size, output: int, mean: tuple[float, float, float],
                 std: tuple[float, float, float], scale: float):
        super().__init__(image_size=image_size, patch_size=patch_size, width=layout.width, input_size=input_size)
        self.mean, self.std, self.scale = mean, std, scale
        self.graph, self.layout, self.output = graph, layout, output
        self.freeze()

    def features(self, images: paddle.Tensor) -> paddle.Tensor:
        found = self.layout.as_map(images_at_once(self.graph, images.numpy(), self.output))
        return fit_map(found, self.grid).flatten(2).transpose([0, 2, 1])

    def normalise(self, images: paddle.Tensor) -> paddle.Tensor:
        return super().normalise(images if self.scale == 1 else images * self.scale)

    def identity(self) -> dict[str, Any]:
        return dict(self.graph.identity)


def build_file(*, weights: str | None = None, sha256: str | None = None, image_size: int | Sequence[int] = 224,
               patch_size: int | Sequence[int] = 16, input_size: int | Sequence[int] | None = None,
               mean: Numbers | None = None, std: Numbers | None = None, scale: float = 1.0,
               layout: str | None = None, leading: int = 0, grid: Sequence[int] | None = None,
               output: str | int | None = None, fit: str = "exact", device: str = "cpu",
               threads: int | None = None) -> FileTeacher:
    """The teacher of an ONNX file, a graph of paddle.jit.save, or a folder of `beitv2 export`.

    input_size: pixels; None where the file says it.  mean, std: one number or one a colour, of images in [0, scale]; a
    folder of ours says them, every other file does not.  layout: nchw, nhwc or tokens; None: by the number of axes,
    tokens for three, nchw for four.  leading: tokens before those of the patches ([CLS], registers).  grid: (rows,
    columns) of tokens where their number does not tell.  output: name or number, where there are several.
    Raises WeightsError for a file that is missing or cannot be run, ConfigError for settings that are missing, do not
    fit the file or are said by it, naming the shape that came and what would fit.
    """
    if not weights:
        raise WeightsError("teacher 'file': no file was given. Set teacher.weights to an ONNX file, a graph of "
                           "paddle.jit.save or a folder of `beitv2 export`; docs/teachers.md shows how to make one.")
    graph = open_graph(str(weights), sha256, device=device, threads=threads or runtime.threads())
    colours = _normalisation(graph, mean, std, scale)
    pixels = _input_size(graph, input_size)
    number = choose_output(graph, output)
    wanted = grid_of("FileTeacher", pair(image_size), pair(patch_size))
    shape = images_at_once(graph, np.zeros((1, 3, *pixels), np.float32), number).shape
    read = read_layout(shape, layout=layout, leading=leading, grid=grid, pixels=pixels, wanted=wanted,
                       where=f"teacher 'file': {weights}: output {graph.outputs[number]}")
    check_fit("file", read.grid, wanted, fit, _what_fits(shape, wanted) or
              "Set teacher.options.input_size to other pixels, where the file takes them")
    return FileTeacher(graph, read, image_size=image_size, patch_size=patch_size, input_size=pixels, output=number,
                       mean=colours[0], std=colours[1], scale=scale)


def _normalisation(graph: Graph, mean: Numbers | None, std: Numbers | None,
                   scale: float) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    if graph.described:
        if mean is not None or std is not None or scale != 1:
            raise ConfigError(f"teacher 'file': {graph.source}: its model.json says how images are normalised. Leave "
                              "teacher.options.mean, std and scale out.")
        mean, std = graph.mean, graph.std
    if mean is None or std is None:
        raise ConfigError(
            f"teacher 'file': {graph.source} does not say how images are normalised. Set teacher.options.mean and .std "
            f"(and .scale=255 for a network of pixels in [0, 255]): mean={list(IMAGENET_MEAN)} "
            f"std={list(IMAGENET_STD)} for most networks of ImageNet, mean=0.5 std=0.5 for images in "
            "[-1, 1], mean=0 std=1 for one that normalises for itself."
        )
    first, second = (_three(name, value) for name, value in (("mean", mean), ("std", std)))
    if min(second) <= 0 or scale <= 0:
        raise ConfigError(f"teacher 'file': std is {list(second)} and scale {scale}; expected numbers above 0.")
    return first, second


def _three(name: str, value: Numbers) -> tuple[float, float, float]:
    numbers = [value] if isinstance(value, (int, float)) else list(value)
    if len(numbers) not in (1, 3):
        raise ConfigError(f"teacher 'file': {name} is {numbers}; expected one number, or one for each of three "
                          "colours.")
    red, green, blue = numbers * (3 // len(numbers))
    return float(red), float(green), float(blue)


def _input_size(graph: Graph, asked: int | Sequence[int] | None) -> Size:
    """Pixels of the network's input, as the file or the setting says."""
    shape = graph.input_shape
    if shape and (len(shape) != 4 or shape[1] not in (3, None)):
        raise ConfigError(f"teacher 'file': {graph.source}: its input has the shape {_named(shape)}; expected (batch, "
                          "3, height, width). Export it for images in this order of axes.")
    fixed: tuple[Optional[int], ...] = shape[2:] if shape else (None, None)
    height, width = fixed if asked is None else pair(asked)
    if height is None or width is None:
        raise ConfigError(f"teacher 'file': {graph.source} does not say which size of images it takes. Set "
                          "teacher.options.input_size to pixels: one side, or [height, width].")
    if any(f is not None and f != a for f, a in zip(fixed, (height, width))):
        raise ConfigError(f"teacher 'file': {graph.source} takes images of {_named(fixed)} pixels, input_size is "
                          f"{height} x {width}. Leave teacher.options.input_size out, or export the network again.")
    return height, width


def _named(shape: Sequence[Optional[int]]) -> str:
    return " x ".join("any" if size is None else str(size) for size in shape)


def read_layout(shape: tuple[int, ...], *, layout: str | None, leading: int, grid: Sequence[int] | None, pixels: Size,
                wanted: Size, where: str) -> Layout:
    """How an output of that shape (1, ...) is read; pixels: of the network's input; wanted: the tokenizer's grid.

    Raises ConfigError naming the shape, what it was read as, and what would fit.
    """
    came = f"{where} has the shape (batch, {', '.join(map(str, shape[1:]))})"
    if layout is not None and layout not in LAYOUTS:
        raise ConfigError(f"{came}; layout is {layout!r}. Expected one of {', '.join(LAYOUTS)}.")
    name = layout or ("tokens" if len(shape) == 3 else "nchw")
    if len(shape) != LAYOUTS[name].count(",") + 1:
        fitting = _what_fits(shape, wanted) or "Choose another output (teacher.options.output): this is no map of " \
                                               "patches"
        raise ConfigError(f"{came}, which is no {name}, {LAYOUTS[name]}. {fitting}.")
    if name != "tokens":
        if leading or grid is not None:
            raise ConfigError(f"{came}, read as {name}: teacher.options.leading and .grid are for tokens. Leave them "
                              "out.")
        rows, columns, width = shape[2:] + shape[1:2] if name == "nchw" else shape[1:]
        return Layout(name, 0, (rows, columns), width)
    count = shape[1] - leading
    found = _grid_of_tokens(count, grid, pixels, wanted)
    if leading < 0 or found is None:
        advice = [_what_fits(shape, wanted), "Set teacher.options.leading to the number of tokens before those of the "
                  "patches, and .grid=[rows, columns] where these form no square"]
        raise ConfigError(f"{came}: of {shape[1]} tokens {leading} are dropped (teacher.options.leading), and {count} "
                          f"form no grid{'' if grid is None else f' of {grid[0]} x {grid[1]}'} of an image of "
                          f"{pixels[0]} x {pixels[1]} pixels. {'. '.join(filter(None, advice))}.")
    return Layout(name, leading, found, shape[2])


def _grid_of_tokens(count: int, grid: Sequence[int] | None, pixels: Size, wanted: Size) -> Size | None:
    """(rows, columns) of that many tokens: as given, as the tokenizer's grid, or the square of a square image."""
    if grid is not None:
        rows, columns = pair(tuple(grid))
        return (rows, columns) if rows * columns == count else None
    if count == wanted[0] * wanted[1] and pixels[0] * wanted[1] == pixels[1] * wanted[0]:
        return wanted
    side = round(max(count, 0) ** 0.5)
    return (side, side) if count > 0 and side * side == count and pixels[0] == pixels[1] else None


def _what_fits(shape: tuple[int, ...], wanted: Size) -> str:
    """The settings with which an output of that shape has the tokenizer's grid, as advice; "" where there are none."""
    ways = []
    if len(shape) == 4:
        ways = [f"layout={name}" for name, found in (("nchw", shape[2:]), ("nhwc", shape[1:3])) if found == wanted]
    elif len(shape) == 3 and shape[1] >= wanted[0] * wanted[1]:
        leading = shape[1] - wanted[0] * wanted[1]
        ways = [f"layout=tokens with .leading={leading}"] if leading <= MOST_LEADING else []
    return f"For {wanted[0]} x {wanted[1]} patches set teacher.options.{' or .'.join(ways)}" if ways else ""
