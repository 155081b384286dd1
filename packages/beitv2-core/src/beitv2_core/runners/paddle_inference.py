# SPDX-License-Identifier: Apache-2.0
"""paddle.inference."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import ConfigError, ExportError
from ..runtime import require_paddle
from .runtime import Runtime, only_input


class PaddleInference(Runtime):
    """Graphs that `paddle.jit.save` wrote."""

    name, form, precisions = "paddle.inference", "paddle", ("f32",)

    def __init__(self, graph: Path, *, device: str, threads: int, precision: str):
        require_paddle()
        import paddle
        from paddle import inference

        if graph.suffix == ".json" and paddle.__version__.startswith("2."):
            raise ExportError(f"{graph}: written by Paddle 3, which Paddle {paddle.__version__} cannot read. Install "
                              "paddlepaddle>=3, or export as ONNX.")
        config = inference.Config(str(graph), str(graph.with_suffix(".pdiparams")))
        config.disable_glog_info()
        if device == "gpu":
            if not paddle.is_compiled_with_cuda():
                raise ConfigError("device is 'gpu', but this Paddle was built for the CPU. Install paddlepaddle-gpu.")
            config.enable_use_gpu(256, 0)  # MB to start with; grows
        else:
            config.disable_mkldnn()  # Paddle 3.3 cannot run a resize through oneDNN
            config.set_cpu_math_library_num_threads(threads)
        self._predictor = inference.create_predictor(config)
        self._input = only_input(graph, self._predictor.get_input_names())
        self.outputs = tuple(self._predictor.get_output_names())

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        self._predictor.get_input_handle(self._input).copy_from_cpu(images)
        self._predictor.run()
        return [self._predictor.get_output_handle(out).copy_to_cpu() for out in self._predictor.get_output_names()]
