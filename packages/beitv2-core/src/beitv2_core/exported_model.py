# SPDX-License-Identifier: Apache-2.0
"""Exported models, run without the code of the model: a folder with a graph and its description `model.json`.

Importing this costs no Paddle, and an ONNX model needs none: onnxruntime, numpy and Pillow are enough.

Shape suffixes: B batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Optional

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from . import __version__
from .data.sources.image_file import Reading
from .data.views.transforms import normalise
from .errors import BEiTError, ConfigError, ExportError, ShapeError
from .files.hashing import sha256_of
from .files.json_text import parse_json
from .runners import choose
from .runtime import physical_cores

DESCRIPTION = "model.json"
GRAPH = "graph"
#: the same where PaddleX reads the folder: its names are fixed
PADDLEX_GRAPH = "inference"
#: the file that holds the graph itself, by format; Paddle 3 writes .json, Paddle 2.6 .pdmodel
GRAPH_FILES = {"paddle": tuple(f"{name}.{end}" for name in (GRAPH, PADDLEX_GRAPH) for end in ("json", "pdmodel")),
               "onnx": (f"{GRAPH}.onnx",)}
#: the same model with eight-bit products, beside the graph in float32, in OpenVINO's form: graph and weights
INT8_FILES = (f"{GRAPH}_int8.xml", f"{GRAPH}_int8.bin")
Run = Callable[[np.ndarray], "list[np.ndarray]"]


class Int8(BaseModel):
    """The eight-bit graph of an export, measured when it was made.

    calibrated_on, measured_on: numbers of images, none in both.  agreement: with the graph in float32, as
    `exporting.agreement` gives it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    calibrated_on: int
    measured_on: int
    agreement: dict[str, float]
    versions: dict[str, str]


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
    int8: Optional[Int8] = None

    def as_json(self) -> str:
        """The text of `model.json`; without eight-bit products it is one that version 0.2 reads too."""
        return self.model_dump_json(indent=1, exclude={"int8"} if self.int8 is None else None) + "\n"


class Exported:
    """A model that runs without its code, always in eval mode.  One `Exported` serves one thread at a time.

    runtime, precision: what computes it, and in which numbers.
    """

    training = False

    def __init__(self, folder: Path, description: Description, run: Run, *, runtime: str = "",
                 precision: str = "f32"):
        self.folder, self.description, self._run = folder, description, run
        self.runtime, self.precision = runtime, precision

    def eval(self) -> None:
        """Nothing: as the live models, which measurements put into eval mode."""

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
    def num_classes(self) -> int:
        """Classes of the logits."""
        return len(self._known("classes"))

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
        """SHA-256 over graph and weights of this precision: equal for copies of one export."""
        parts = (f"{name} {digest}\n" for name, digest in sorted(self.description.files.items())
                 if (name in INT8_FILES) == (self.precision == "int8"))
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
            wanted = "model with classes" if name == "classes" else "tokenizer"
            raise ConfigError(f"{self.folder}: a {self.kind} has no {name}. Give an exported {wanted}.")
        return value


def is_exported(folder: str | Path) -> bool:
    """Whether a folder is one that `beitv2 export` wrote (a run folder is not)."""
    names = [name for names in GRAPH_FILES.values() for name in names]
    return (Path(folder) / DESCRIPTION).is_file() and any((Path(folder) / name).is_file() for name in names)


def load_exported(folder: str | Path, *, kind: str | None = None, device: str = "cpu", threads: int | None = None,
                  runtime: str | None = None, precision: str = "f32") -> Exported:
    """An exported model, ready to run.

    kind: what it must be.  device: "cpu" or "gpu" (the first one).  threads: on the CPU, default all cores.
    runtime: "onnxruntime" or "openvino" of an ONNX folder, "paddle.inference" of a Paddle one; None: the first of them
    that computes in `precision`.  precision: "f32"; "bf16" by OpenVINO on processors that have it; "int8" by OpenVINO
    where `beitv2 export` wrote that graph.
    Raises ExportError for a folder that is no exported model, is damaged (every file has its SHA-256), of another
    kind, or describes images of another size than its graph takes, MissingDependencyError where the runtime is not
    installed, ConfigError for a device, a runtime or a precision that is not there.
    """
    folder = Path(folder)
    description = read_description(folder)
    if kind is not None and description.kind != kind:
        raise ExportError(f"{folder}: this is an exported {description.kind}; a {kind} was expected.")
    if device not in ("cpu", "gpu"):
        raise ConfigError(f"device is {device!r}; expected 'cpu' or 'gpu'.")
    chosen = choose(description.format, runtime, precision, where=folder)
    if precision == "int8" and description.int8 is None:
        raise ConfigError(f"{folder}: --precision int8: this export has no {INT8_FILES[0]}. Export again with "
                          "--quantize int8 --calibrate FOLDER.")
    for name, digest in description.files.items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != digest:
            raise ExportError(f"{path}: {'not the file that was exported' if path.is_file() else 'missing'}; its "
                              f"SHA-256 must be {digest}. Copy the whole folder again, or export again.")
    graph = folder / INT8_FILES[0] if precision == "int8" else graph_file(folder, description.format)
    if graph.name not in description.files:
        raise ExportError(f"{folder / DESCRIPTION}: does not list {graph.name} with its SHA-256. Export again.")
    try:
        run = chosen(graph, device=device, threads=threads or physical_cores(), precision=precision)
    except (BEiTError, ModuleNotFoundError):
        raise
    except Exception as error:  # each runtime raises types of its own
        made_by = ", ".join(f"{name} {version}" for name, version in description.versions.items())
        reason = " ".join(str(error).split())
        raise ExportError(f"{graph}: cannot be loaded by {chosen.name} ({reason}). It was written by {made_by}; use "
                          "versions not older than these.") from None
    if any(taken not in (None, size) for taken, size in zip(run.input_shape[1:], (3, *description.image_size))):
        raise ExportError(f"{folder / DESCRIPTION}: image_size is {list(description.image_size)}, {graph.name} takes "
                          f"images of shape {list(run.input_shape)}. Export the model again.")
    return Exported(folder, description, run, runtime=chosen.name, precision=precision)


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
        versions = parse_json(path.read_text(encoding="utf-8")).get("versions") or {}
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
