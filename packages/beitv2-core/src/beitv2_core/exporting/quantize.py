# SPDX-License-Identifier: Apache-2.0
"""Products in eight bits: post-training quantization of an ONNX graph by NNCF, for OpenVINO.

Tried on the embedded trained tokenizer, by equal codes of 256 images: onnxruntime's quantize_static 93 to 95 %; NNCF
96 %, with the parts of `_kept_exact` in float32 98.4 %, with weights of seven bits 98.9 %.  Those do not overflow on
processors without VNNI, where 2 % of a classifier's answers change otherwise.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError, MissingDependencyError
from ..evaluation.codes import list_images
from ..exported_model import GRAPH_FILES, INT8_FILES, Exported, Int8
from ..runners import RUNTIMES
from ..runtime import physical_cores
from .agreement import agreement, too_far
from .inputs import images_of_files

log = logging.getLogger("beitv2_core")

#: weighted products before the outputs that stay in float32: task layers and codebook lookup; of heads the last layer
EXACT_AT_END = {"tokenizer": 3, "features": 0}
BATCH = 8


class Calibration(NamedTuple):
    """Images that ranges of activations are taken from: a folder, a list or a file; at most `images` of them.

    As many others of the folder are what the agreement with float32 is measured on.
    """

    source: Path
    images: int = 128


def require_quantizer() -> None:
    """MissingDependencyError with the command to type where NNCF or OpenVINO is not installed."""
    for module in ("openvino", "nncf"):
        try:
            with _no_telemetry():
                __import__(module)
        except ImportError as error:
            raise MissingDependencyError(f"--quantize int8: {module} cannot be imported ({error}). "
                                         "Type: pip install 'beitv2-core[int8]'") from None


def write_int8(model: Exported, calibration: Calibration) -> Int8:
    """Write the eight-bit graph beside the ONNX graph of an exported folder; returns its measured agreement.

    Half of the chosen images calibrate, the others are what the agreement with `model`, in float32, is measured on.
    In float32 stay: softmax, layer norm, attention's own products where NNCF leaves them, the patch embedding, and the
    last products of `EXACT_AT_END`.  An agreement below `agreement.LEAST` is written with a warning.
    Raises ConfigError where there are fewer than two images.
    """
    require_quantizer()
    import nncf
    import openvino

    facts = model.description.model_dump()
    ranges, others = _two_halves(facts, calibration)
    logging.getLogger("nncf").setLevel(logging.ERROR)  # nncf.set_log_level would silence the program's own handlers too
    graph = openvino.Core().read_model(str(model.folder / GRAPH_FILES["onnx"][0]))
    parts = [ranges[i : i + BATCH] for i in range(0, len(ranges), BATCH)]
    scope = nncf.IgnoredScope(names=_kept_exact(graph, model.kind))
    seven_bits = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
    quantized = nncf.quantize(graph, nncf.Dataset(parts), model_type=nncf.ModelType.TRANSFORMER,
                              subset_size=len(parts), ignored_scope=scope, advanced_parameters=seven_bits)
    path = model.folder / INT8_FILES[0]
    openvino.save_model(quantized, str(path), compress_to_fp16=False)
    eight = RUNTIMES["openvino"](path, device="cpu", threads=physical_cores(), precision="int8")
    found: dict[str, list[np.ndarray]] = {}
    expected: dict[str, list[np.ndarray]] = {}
    for i in range(0, len(others), BATCH):
        images = others[i : i + BATCH]
        for table, outputs in ((expected, model.run_normalised(images)),
                               (found, dict(zip(model.description.outputs, eight(images))))):
            for name, value in outputs.items():
                table.setdefault(name, []).append(value)
    got, want = ({name: np.concatenate(parts) for name, parts in table.items()} for table in (found, expected))
    measured = agreement(got, want)
    for words in too_far(measured):
        log.warning("--quantize int8: the eight-bit model is far from the float32 one, %s, on %d images that did not "
                    "calibrate. Use --precision bf16 or f32 where answers count, or calibrate with more images.",
                    words, len(others))
    return Int8(calibrated_on=len(ranges), measured_on=len(others), agreement=measured,
                versions={"nncf": nncf.__version__, "openvino": openvino.__version__})


def _two_halves(facts: Mapping[str, Any], calibration: Calibration) -> tuple[np.ndarray, np.ndarray]:
    paths = list_images([calibration.source])
    if len(paths) < 2:
        raise ConfigError(f"--calibrate {calibration.source}: {len(paths)} image; expected at least 2: some calibrate, "
                          "the agreement is measured on others.")
    most = min(len(paths), 2 * calibration.images)
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, most).round().astype(int)]
    return images_of_files(facts, chosen[::2]), images_of_files(facts, chosen[1::2])


def _kept_exact(graph: Any, kind: str) -> list[str]:
    """Names of the products that stay in float32: the first convolution, which reads pixels, and the last ones."""
    products = [node.get_friendly_name() for node in graph.get_ordered_ops()
                if node.get_type_name() in ("MatMul", "Convolution")]
    convolutions = [node.get_friendly_name() for node in graph.get_ordered_ops()
                    if node.get_type_name() == "Convolution"]
    return [*convolutions[:1], *products[len(products) - EXACT_AT_END.get(kind, 1):]]


@contextlib.contextmanager
def _no_telemetry() -> Iterator[None]:
    """NNCF reports what it does to its makers unless this variable is set when it is imported."""
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["NNCF_CI"]
