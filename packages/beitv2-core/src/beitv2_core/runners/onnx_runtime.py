# SPDX-License-Identifier: Apache-2.0
"""onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import ConfigError, MissingDependencyError
from .runtime import Runtime, only_input, sizes


class OnnxRuntime(Runtime):
    """ONNX graphs, on processors and CUDA."""

    name, form, precisions = "onnxruntime", "onnx", ("f32",)

    def __init__(self, graph: Path, *, device: str, threads: int, precision: str):
        try:
            import onnxruntime
        except ImportError:
            raise MissingDependencyError(f"{graph}: an ONNX model is run by onnxruntime, which is not installed. "
                                         "Type: pip install onnxruntime") from None
        provider = "CPUExecutionProvider" if device == "cpu" else "CUDAExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise ConfigError("device is 'gpu', but this onnxruntime was built for the CPU. Install onnxruntime-gpu.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors; files of version 0.2 hold constants it would warn of
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=[provider])
        entries = self._session.get_inputs()
        self._input = only_input(graph, [entry.name for entry in entries])
        self.input_shape = sizes(entries[0].shape)
        self.outputs = tuple(one.name for one in self._session.get_outputs())

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        return self._session.run(None, {self._input: images})
