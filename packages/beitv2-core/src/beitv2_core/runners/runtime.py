# SPDX-License-Identifier: Apache-2.0
"""What every runtime is."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

#: numbers a model can be computed in
PRECISIONS = ("f32", "bf16", "int8")


class Runtime(abc.ABC):
    """A loaded graph with one input; called with images (B, 3, H, W) float32 it gives the outputs in the graph's order.

    name: as in --runtime.  form: of the graphs it runs, paddle or onnx.  precisions: in which it computes.
    One object serves one thread at a time.
    """

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
