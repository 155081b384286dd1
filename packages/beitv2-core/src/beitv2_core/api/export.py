# SPDX-License-Identifier: Apache-2.0
"""A trained model as a file that runs without our code: what `beitv2 export` calls."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Optional, Union

from ..errors import ConfigError
from ..exported_model import Description
from .arguments import run_folder_of


class ExportedFolder(NamedTuple):
    """The folder that was written, and what `model.json` in it says: kind, sizes, outputs, files, differences."""

    folder: Path
    description: Description


def export(run: Union[str, Path], format: str, out: Union[str, Path, None] = None, *, kind: Optional[str] = None,
           name: Optional[str] = None, quantize: Optional[str] = None, calibrate: Union[str, Path, None] = None,
           calibration_images: int = 128) -> ExportedFolder:
    """Export a static graph or an ONNX model; nothing is written if its outputs differ from the live model's.

    run: run folder, .pdckpt checkpoint or file of weights.  format: "paddle" (static graph), "paddlex" (the
    same, as PaddleX reads it) or "onnx" (opset 17).  out: new folder; default: RUN/exported/KIND_FORMAT.  kind:
    "features": the backbone's features instead of the trained head.  name: published tokenizer that a weights file must
    be.  quantize: "int8" adds eight-bit products beside an ONNX graph, whose ranges are measured on at most
    calibration_images images of calibrate.
    Raises ExportError, ConfigError, CheckpointError, MissingDependencyError.
    """
    from ..exporting import Calibration, export_model, find_exportable

    if quantize not in (None, "int8"):
        raise ConfigError(f"--quantize {quantize}: expected int8.")
    if (quantize is None) != (calibrate is None):
        given, other = ("--calibrate", "--quantize int8") if quantize is None else ("--quantize int8", "--calibrate "
                                                                                    "FOLDER")
        raise ConfigError(f"{given}: needs {other} too: ranges of activations are measured on images.")
    calibration = None if calibrate is None else Calibration(Path(calibrate), calibration_images)
    model = find_exportable(str(run), kind=kind, name=name)
    folder = Path(out) if out is not None else run_folder_of(run) / "exported" / f"{model.facts['kind']}_{format}"
    return ExportedFolder(folder, export_model(model, folder, form=format, calibration=calibration))
