# SPDX-License-Identifier: Apache-2.0
"""A model as a folder: config.json, model.safetensors, preprocessor_config.json; transformers reads it where it can."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..assembly.kinds import find_kind
from ..assembly.loaded_weights import read_model
from ..errors import CheckpointError
from ..files.atomic import write_files_together
from ..pixels.imagenet import IMAGENET_MEAN, IMAGENET_STD
from ..weights.converted import write_converted
from ..weights.formats import to_format
from ..weights.identify import IdentifiedWeights
from ..weights.keymaps import huggingface, timm
from ..weights.preprocessor import FILE
from ..weights.writers import whole_or_absent, write_safetensors

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def write_transformers_folder(folder: Path, found: IdentifiedWeights, state: Mapping[str, np.ndarray],
                              preprocessor: Mapping[str, Any]) -> None:
    """A folder of transformers: its names, class names and preprocessing; CheckpointError where it cannot be written.

    state: the tensors under its names.
    """
    with _together(folder) as new:
        _write_transformers(new, found, state, preprocessor)


def write_timm_folder(folder: Path, found: IdentifiedWeights, state: Mapping[str, np.ndarray],
                      crop_share: float) -> None:
    """A folder that timm loads by `local-dir:`: its names, arguments, `pretrained_cfg` and class names.

    state: the tensors under its names.  Raises CheckpointError where it cannot be written, or has heads of a width that
    timm's constructor cannot be given.
    """
    if found.architecture["attn_head_dim"]:
        raise CheckpointError(f"{folder}: timm's constructor has no setting for heads of another width than width / "
                              "num_heads. Write the tensors alone, to a name that ends in .safetensors.")
    with _together(folder) as new:
        _write_json(new / CONFIG, timm.config_of(found.architecture, crop_share=crop_share, mean=IMAGENET_MEAN,
                                                 std=IMAGENET_STD, classes=found.classes))
        write_safetensors(new / WEIGHTS, state, {"format": "pt"})


def write_model_folder(folder: Path, found: IdentifiedWeights, preprocessor: Mapping[str, Any]) -> str:
    """A folder that reads back as the same model: transformers' where its files hold all of it, else ours.

    Returns the format, "huggingface" or "ours".  Raises CheckpointError where it cannot be written.
    """
    kind = find_kind(found.kind)
    try:
        state = to_format("huggingface", kind, found.weights, found.architecture)
    except CheckpointError:  # there is no such class
        state = None
    with _together(folder) as new:
        if state is not None:
            _write_transformers(new, found, state, preprocessor)
            again = read_model(new)
            if again.kind == found.kind and _facts(again) == _facts(found):
                return "huggingface"
        _write_json(new / CONFIG, {"model_type": "beitv2", "kind": found.kind, "architecture": found.architecture})
        _write_json(new / FILE, preprocessor)
        write_converted(new / WEIGHTS, found, kind)
    return "ours"


@contextmanager
def _together(folder: Path) -> Iterator[Path]:
    """A folder to write the files of one model to; they replace those in `folder`, where weights of one model never lie
    beside settings of another."""
    try:
        with write_files_together(folder, last=WEIGHTS) as new:
            yield new
    except OSError as error:
        raise CheckpointError(f"{folder}: could not be written: {error}. Free some space, or choose another "
                              "place.") from None


def _write_transformers(folder: Path, found: IdentifiedWeights, state: Mapping[str, np.ndarray],
                        preprocessor: Mapping[str, Any]) -> None:
    _write_json(folder / CONFIG, huggingface.config_of(found.architecture, found.classes))
    _write_json(folder / FILE, preprocessor)
    write_safetensors(folder / WEIGHTS, state, {"format": "pt"})


def _facts(found: IdentifiedWeights) -> dict[str, Any]:
    """What outputs depend on: the starting value of layer scale is in the weights."""
    return {name: bool(value) if name == "init_values" else value for name, value in found.architecture.items()} | {
        "classes": found.classes}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with whole_or_absent(path) as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")
