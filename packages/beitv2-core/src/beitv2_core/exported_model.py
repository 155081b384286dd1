# SPDX-License-Identifier: Apache-2.0
"""Exported models, run without the code of the model: a folder with a graph and its description `model.json`.

Importing this costs no Paddle, and an ONNX model needs none: onnxruntime, numpy and Pillow are enough.

Shape suffixes: B batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Optional

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from . import __version__
from .data.sources.image_file import Reading
from .data.views.transforms import normalise
from .errors import BEiTError, ConfigError, ExportError, MissingDependencyError, ShapeError
from .files.hashing import sha256_of
from .runtime import physical_cores, require_paddle

DESCRIPTION = "model.json"
GRAPH = "graph"
#: the file that holds the graph itself, by format; Paddle 3 writes .json, Paddle 2.6 .pdmodel
GRAPH_FILES = {"paddle": (f"{GRAPH}.json", f"{GRAPH}.pdmodel"), "onnx": (f"{GRAPH}.onnx",)}
Run = Callable[[np.ndarray], "list[np.ndarray]"]


class Description(BaseModel):
    """The description of an exported model: `model.json`.

    An image file is read as `data.image_file.decode(upright=exif_orientation)` does.
    An image is cut as `EvalCrop(image_size, crop_share, interpolation)` does, scaled to [0, 1], then, with mean and
    std, (x - mean) / std per channel.  kind: tokenizer, features, or the kind of a model of an installed package.
    reading: for models of windows, whose images have any size: the run's `val_dataset.transforms` and `test_config`.
    outputs: names in the graph's order.  differences: by runner, batch size and output, the largest absolute difference
    from the live model when exported (of codes: how many differ).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    kind: str = Field(pattern="^[a-z][a-z0-9_-]*$")
    format: Literal["paddle", "onnx"]
    image_size: tuple[int, int]
    mean: Optional[tuple[float, ...]] = None
    std: Optional[tuple[float, ...]] = None
    crop_share: float
    interpolation: str = "bicubic"
    exif_orientation: bool = False
    outputs: tuple[str, ...]
    classes: Optional[tuple[str, ...]] = None
    reading: Optional[dict[str, Any]] = None
    num_codes: Optional[int] = None
    grid: Optional[tuple[int, int]] = None
    opset: Optional[int] = None
    versions: dict[str, str] = {}
    files: dict[str, str] = {}
    differences: dict[str, dict[int, dict[str, float]]] = {}


class Exported:
    """A model that runs without its code.  One `Exported` serves one thread at a time."""

    def __init__(self, folder: Path, description: Description, run: Run):
        self.folder, self.description, self._run = folder, description, run

    @property
    def kind(self) -> str:
        """tokenizer, features, or the kind of a model of an installed package (classifier)."""
        return self.description.kind

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images it takes, in pixels."""
        return self.description.image_size

    @property
    def reading(self) -> Reading:
        """How image files are read for this model, as the run it was exported from reads them."""
        return Reading(upright=self.description.exif_orientation)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches of one image."""
        return self._known("grid")

    @property
    def num_codes(self) -> int:
        """Size of a tokenizer's codebook."""
        return self._known("num_codes")

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs by name, (B, ...), of images (B, 3, H, W) float32 in [0, 1], any number of them.

        A tokenizer gives codes (B, N) int64 and gaps (B,): how near its least decided patch is to another code, as a
        difference of cosines.  Models with classes give logits, (B, classes) or (B, classes, H, W).  Features
        are mean (B, width) and patches (B, N, width).  Raises ShapeError for another shape or type.
        """
        self._check(images)
        mean, std = self.description.mean, self.description.std
        return self.run_normalised(images if mean is None or std is None else normalise(images, mean, std))

    def run_normalised(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """`run` of images (B, 3, H, W) that went through mean and std already: windows of a padded image."""
        self._check(images)
        return dict(zip(self.description.outputs, self._run(np.ascontiguousarray(images))))

    def fingerprint(self) -> str:
        """SHA-256 over graph and weights: equal for copies of one export."""
        parts = (f"{name} {digest}\n" for name, digest in sorted(self.description.files.items()))
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    def _check(self, images: np.ndarray) -> None:
        if images.ndim != 4 or images.shape[1:] != (3, *self.image_size) or images.dtype != np.float32:
            raise ShapeError(
                f"{self.folder}: images are {images.dtype} of shape {tuple(images.shape)}; expected float32 of shape "
                f"(images, 3, {self.image_size[0]}, {self.image_size[1]}), the size this model was exported for."
            )

    def _known(self, name: str) -> Any:
        value = getattr(self.description, name)
        if value is None:
            raise ConfigError(f"{self.folder}: a {self.kind} has no {name}. Give an exported tokenizer.")
        return value


def is_exported(folder: str | Path) -> bool:
    """Whether a folder is one that `beitv2 export` wrote (a run folder is not)."""
    names = [name for names in GRAPH_FILES.values() for name in names]
    return (Path(folder) / DESCRIPTION).is_file() and any((Path(folder) / name).is_file() for name in names)


def load_exported(folder: str | Path, *, kind: str | None = None, device: str = "cpu",
                  threads: int | None = None) -> Exported:
    """An exported model, ready to run by paddle.inference or onnxruntime, as its files ask for.

    kind: what it must be.  device: "cpu" or "gpu" (the first one).  threads: on the CPU, default all cores.
    Raises ExportError for a folder that is no exported model, is damaged (every file has its SHA-256) or of another
    kind, MissingDependencyError where the runner is not installed, ConfigError for a device that is not there.
    """
    folder = Path(folder)
    description = read_description(folder)
    if kind is not None and description.kind != kind:
        raise ExportError(f"{folder}: this is an exported {description.kind}; a {kind} was expected.")
    if device not in ("cpu", "gpu"):
        raise ConfigError(f"device is {device!r}; expected 'cpu' or 'gpu'.")
    for name, digest in description.files.items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != digest:
            raise ExportError(f"{path}: {'not the file that was exported' if path.is_file() else 'missing'}; its "
                              f"SHA-256 must be {digest}. Copy the whole folder again, or export again.")
    runner = _paddle_runner if description.format == "paddle" else _onnx_runner
    graph = graph_file(folder, description.format)
    if graph.name not in description.files:
        raise ExportError(f"{folder / DESCRIPTION}: does not list {graph.name} with its SHA-256. Export again.")
    try:
        return Exported(folder, description, runner(graph, device, threads or physical_cores()))
    except (BEiTError, ModuleNotFoundError):
        raise
    except Exception as error:  # each runner raises types of its own
        made_by = ", ".join(f"{name} {version}" for name, version in description.versions.items())
        reason = " ".join(str(error).split())
        raise ExportError(f"{graph}: cannot be loaded ({reason}). It was written by {made_by}; use versions not older "
                          "than these.") from None


def read_description(folder: Path) -> Description:
    """Read `model.json`; ExportError where it is missing, unreadable or of another schema."""
    path = folder / DESCRIPTION
    try:
        return Description.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(f"{path}: cannot be read ({error.strerror}). Give a folder that `beitv2 export` wrote."
                          ) from None
    except ValidationError as error:
        unknown = [str(one["loc"][0]) for one in error.errors() if one["type"] == "extra_forbidden"]
        if not unknown:
            raise _unreadable(path, error) from None
        versions = json.loads(path.read_text(encoding="utf-8")).get("versions") or {}
        written = versions.get("beitv2_core", "an unknown version") if isinstance(versions, dict) else versions
        raise ExportError(f"{path}: {', '.join(unknown)}: an entry that beitv2-core {__version__} does not know; the "
                          f"model was exported by {written}. Install that version of beitv2-core or a newer one, or "
                          "export the model again with this one.") from None
    except UnicodeDecodeError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: ValueError) -> ExportError:
    reason = str(error).replace("\n", " ")
    return ExportError(f"{path}: not a description this version can read: {reason}. Export the model again.")


def graph_file(folder: Path, form: str) -> Path:
    """The graph of an exported folder; ExportError where there is none."""
    for name in GRAPH_FILES[form]:
        if (folder / name).is_file():
            return folder / name
    raise ExportError(f"{folder}: none of {', '.join(GRAPH_FILES[form])} is in this folder. Export the model again.")


def _paddle_runner(graph: Path, device: str, threads: int) -> Run:
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
    predictor = inference.create_predictor(config)
    (name,) = predictor.get_input_names()

    def run(images: np.ndarray) -> list[np.ndarray]:
        predictor.get_input_handle(name).copy_from_cpu(images)
        predictor.run()
        return [predictor.get_output_handle(out).copy_to_cpu() for out in predictor.get_output_names()]

    return run


def _onnx_runner(graph: Path, device: str, threads: int) -> Run:
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
    options.log_severity_level = 3  # errors; below are notes about what the optimizer removes
    session = onnxruntime.InferenceSession(str(graph), options, providers=[provider])
    (entry,) = session.get_inputs()

    def run(images: np.ndarray) -> list[np.ndarray]:
        return session.run(None, {entry.name: images})

    return run
