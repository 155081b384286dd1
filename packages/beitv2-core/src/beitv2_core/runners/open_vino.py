# SPDX-License-Identifier: Apache-2.0
"""OpenVINO."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import ConfigError, MissingDependencyError
from .runtime import Runtime


class OpenVINO(Runtime):
    """ONNX graphs on processors, in bfloat16 where the processor multiplies it, and their eight-bit form.

    The precision is always said: by itself OpenVINO computes in bfloat16 wherever it can.
    """

    name, form, precisions = "openvino", "onnx", ("f32", "bf16", "int8")

    def __init__(self, graph: Path, *, device: str, threads: int, precision: str):
        try:
            import openvino
        except ImportError:
            raise MissingDependencyError(f"{graph}: --runtime openvino: openvino is not installed. "
                                         "Type: pip install 'beitv2-core[openvino]'") from None
        if device != "cpu":
            raise ConfigError(f"device is {device!r}; OpenVINO is used on processors here. Take device='cpu', or "
                              "another runtime.")
        self._compiled = openvino.Core().compile_model(str(graph), "CPU", {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32", "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY"})

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        return list(self._compiled(images).to_tuple())
