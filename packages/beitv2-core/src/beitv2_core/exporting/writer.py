# SPDX-License-Identifier: Apache-2.0
"""Write a model, read it back, compare it with the live one, and only then put it in place.

Shape suffixes: B batch.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import yaml

from .. import __version__
from ..errors import ConfigError, ExportError
from ..evaluation.codes import TIE_TOLERANCE
from ..exported_model import DESCRIPTION, GRAPH, INT8_FILES, PADDLEX_GRAPH, Description, graph_file, load_exported
from ..files.atomic import write_folder_atomically
from ..files.hashing import sha256_of
from ..paddlex import inference_settings
from .inputs import drawn_image
from .onnx import OPSET, require_onnx_tools, write_onnx
from .quantize import Calibration, require_quantizer, write_int8
from .sources import Exportable

#: largest absolute difference of any output; codes must be equal
TOLERANCE = 1e-4
BATCHES = (1, 3)
#: what can be written
FORMS = ("paddle", "paddlex", "onnx")
MOST_DRAWS = 100


def export_model(model: Exportable, path: str | Path, *, form: str, batches: Sequence[int] = BATCHES,
                 calibration: Calibration | None = None) -> Description:
    """Write `model` to the new folder `path` and return its description, measured differences included.

    form: "paddle" (paddle.jit.save; checked by paddle.jit.load and paddle.inference), "paddlex" (the same under
    PaddleX's names, with its `inference.yml`) or "onnx" (opset 17; checked by onnxruntime).  Height and width are
    fixed, the batch is not; it is checked at each size in `batches`.
    calibration: images by which eight-bit products are added beside an ONNX graph, with their measured agreement.
    Raises ExportError, leaving nothing behind, where an output differs from the live model by more than 1e-4 or a code
    is another one; ConfigError where `path` exists, for ONNX on Paddle 2, and for a kind that PaddleX does not run.
    """
    path = Path(path)
    if form not in FORMS:
        raise ConfigError(f"--format {form}: expected {', '.join(FORMS)}.")
    if path.exists():
        raise ConfigError(f"{path}: already there. Remove it, or name another folder with --output.")
    settings = inference_settings(model.facts) if form == "paddlex" else None
    if form == "onnx":
        require_onnx_tools()
    if calibration is not None:
        if form != "onnx":
            raise ConfigError(f"--quantize int8: of ONNX graphs, this is --format {form}. Use --format onnx.")
        require_quantizer()
    try:
        with write_folder_atomically(path) as temporary:
            description = _write(model, temporary, form, settings)
            differences = measure_export(model, temporary, description, batches)
            _refuse_other_answers(path, differences)
            description = description.model_copy(update={"differences": differences})
            if calibration is not None:
                description = _with_int8(temporary, description, calibration)
            (temporary / DESCRIPTION).write_text(description.as_json(), encoding="utf-8")
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error}.") from None
    return description


def _write(model: Exportable, folder: Path, form: str, settings: Mapping[str, Any] | None) -> Description:
    """settings: of PaddleX, written beside the graph under its names."""
    model.graph.eval()
    name = GRAPH if settings is None else PADDLEX_GRAPH
    height, width = model.facts["image_size"]
    spec = [paddle.static.InputSpec([None, 3, height, width], "float32", "images")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Paddle's, about what it does itself
        with _own_methods_kept(model.graph):
            paddle.jit.save(paddle.jit.to_static(model.graph, input_spec=spec, full_graph=True), str(folder / name))
    if form == "onnx":
        graph, weights = graph_file(folder, "paddle"), folder / f"{GRAPH}.pdiparams"
        write_onnx(graph, weights, folder / f"{GRAPH}.onnx", model.facts["outputs"])
        graph.unlink()
        weights.unlink()
    (folder / f"{name}.pdiparams.info").unlink(missing_ok=True)  # for going on with training
    if settings is not None:
        text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
        (folder / f"{name}.yml").write_text(text, encoding="utf-8")
    versions = {"beitv2_core": __version__, "paddle": paddle.__version__}
    if form == "onnx":
        versions.update({name: importlib.metadata.version(name) for name in ("paddle2onnx", "onnx")})
    files = {file.name: sha256_of(file) for file in sorted(folder.iterdir())}
    description = Description.model_validate({**model.facts, "format": "onnx" if form == "onnx" else "paddle",
                                              "versions": versions, "files": files,
                                              "opset": OPSET if form == "onnx" else None})
    (folder / DESCRIPTION).write_text(description.as_json(), encoding="utf-8")
    return description


@contextlib.contextmanager
def _own_methods_kept(graph: paddle.nn.Layer) -> Iterator[None]:
    """Restore the `forward` of every layer, which `to_static` replaces in place by a slower one.

    The layers are the live model's too.  Paddle's `rollback` forgets the layers that are called twice (Paddle 2.6).
    """
    own = [(layer, layer.__dict__.get("forward")) for layer in graph.sublayers(include_self=True)]
    try:
        yield
    finally:
        for layer, forward in own:
            if forward is None:
                layer.__dict__.pop("forward", None)
            else:
                layer.forward = forward


def _with_int8(folder: Path, description: Description, calibration: Calibration) -> Description:
    """Write the eight-bit graph; the description with its agreement and files."""
    found = write_int8(load_exported(folder), calibration)
    files = {name: sha256_of(folder / name) for name in INT8_FILES}
    return description.model_copy(update={"int8": found, "files": {**description.files, **files}})


def measure_export(model: Exportable, folder: Path, description: Description,
                   batches: Sequence[int] = BATCHES) -> dict[str, dict[int, dict[str, float]]]:
    """Largest absolute difference from the live model by runner, batch size and output; of codes, how many differ."""
    images = check_images(model, max(batches))
    exported = load_exported(folder)
    runners = {"onnxruntime": exported.run_normalised}
    if description.format == "paddle":
        runners = {"paddle.jit.load": _jit_runner(folder, description), "paddle.inference": exported.run_normalised}
    found: dict[str, dict[int, dict[str, float]]] = {name: {} for name in runners}
    for batch in batches:
        part = images[:batch]
        with paddle.no_grad():
            expected = model.live(paddle.to_tensor(part))
        for name, run in runners.items():
            found[name][batch] = _differences(run(part), expected)
    return found


def _jit_runner(folder: Path, description: Description) -> Any:
    layer = paddle.jit.load(str(graph_file(folder, "paddle").with_suffix("")))
    layer.eval()

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        with paddle.no_grad():
            out = layer(paddle.to_tensor(images))
        parts = out if isinstance(out, (list, tuple)) else [out]
        return {name: part.numpy() for name, part in zip(description.outputs, parts)}

    return run


def _differences(got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, float]:
    found = {}
    for name, want in expected.items():
        have = got[name]
        if have.shape != want.shape:
            raise ExportError(f"{name}: the exported model gives shape {have.shape}, the live model {want.shape}.")
        if want.dtype.kind == "i":
            found[name] = float((have != want).sum())
        else:
            found[name] = float(np.abs(have.astype(np.float64) - want.astype(np.float64)).max())
    return found


def _refuse_other_answers(path: Path, differences: Mapping[str, Mapping[int, Mapping[str, float]]]) -> None:
    wrong = [f"{value:.3g} ({name}, batch {batch}, {runner})" for runner, sizes in differences.items()
             for batch, outputs in sizes.items() for name, value in outputs.items()
             if not value <= (0 if name == "codes" else TOLERANCE)]
    if wrong:
        raise ExportError(f"{path}: not written, the outputs of the exported model differ from those of the live one: "
                          f"{'; '.join(wrong)}. Allowed are {TOLERANCE:g} for numbers and 0 for codes.")


def check_images(model: Exportable, count: int) -> np.ndarray:
    """Images (count, 3, H, W), after mean and std, to compare two models on: coloured squares under noise, seeded.

    Images are left out whose codes depend on rounding, and so on the batch size (`codes.encode`).  Raises ExportError
    where nearly all are such images.
    """
    kept: list[np.ndarray] = []
    for seed in range(MOST_DRAWS):
        image = drawn_image(model.facts, seed)
        if "gaps" in model.facts["outputs"]:
            with paddle.no_grad():
                if model.live(paddle.to_tensor(image))["gaps"].min() < TIE_TOLERANCE:
                    continue
        kept.append(image)
        if len(kept) == count:
            return np.concatenate(kept)
    raise ExportError(f"of {MOST_DRAWS} images, {len(kept)} have codes that do not depend on rounding; {count} are "
                      "needed to compare the models. Some codes of the codebook are almost equal: train it further.")
