# SPDX-License-Identifier: Apache-2.0
"""What every runtime is."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Optional

import numpy as np

from ..errors import ConfigError

#: numbers a model can be computed in
PRECISIONS = ("f32", "bf16", "int8")


class Runtime(abc.ABC):
    """A loaded graph with one input; called with images (B, 3, H, W) float32 it gives the outputs in the graph's order.

    name: as in --runtime.  form: of the graphs it runs, paddle or onnx.  precisions: in which it computes.
    input_shape: of the images, None where any size is taken; outputs: their names; both empty where they are not known.
    One object serves one thread at a time.
    """

    input_shape: tuple[Optional[int], ...] = ()
    outputs: tuple[str, ...] = ()
    name: ClassVar[str]
    form: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]

    @abc.abstractmethod
    def __init__(self, graph: Path, *, device: str, threads: int, precision: str):
        """Load `graph`; device: "cpu" or "gpu"; threads: on the CPU.

        int8: the graph itself holds the eight-bit products.  Raises MissingDependencyError where the runtime is not
        installed, ConfigError for a device it does not have.
        """

    @abc.abstractmethod
    def __call__(self, images: np.ndarray) -> list[Any]:
        """The graph's outputs."""


def sizes(shape: Sequence[Any]) -> tuple[Optional[int], ...]:
    """A shape as graphs give it, None where a size is free: a name, -1, or nothing."""
    return tuple(size if isinstance(size, int) and size > 0 else None for size in shape)


def only_input(graph: Path, names: Sequence[str]) -> str:
    """The name of the one input; ConfigError where there are none or several."""
    if len(names) != 1:
        raise ConfigError(f"{graph}: the graph has {len(names)} inputs ({', '.join(names) or 'none'}); expected one, "
                          "the images. Export it again with the images as its only input.")
    return names[0]
