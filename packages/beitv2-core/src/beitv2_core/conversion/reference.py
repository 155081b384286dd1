# SPDX-License-Identifier: Apache-2.0
"""Outputs of PyTorch's classes, where they are installed: timm's `Beit`, transformers' `Beit*`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..assembly.kinds import find_kind
from ..errors import CheckpointError
from ..weights.formats import refusal, to_format
from ..weights.identify import IdentifiedWeights
from ..weights.keymaps.huggingface import class_of, config_of
from ..weights.keymaps.timm import arguments_of
from ..weights.writers import write_safetensors

NO_REFERENCE = "no other code that runs the source: tensors are compared, outputs must be finite"


def torch_output(source: IdentifiedWeights, path: Path | None, images: np.ndarray) -> tuple[str, np.ndarray | None]:
    """Name and output of the reference; the output is None where no class for this model is installed.

    source: the model under our names; path: where it came from: a folder of transformers is loaded by transformers
    itself.  images: (B, 3, H, W).
    """
    formats, a = find_kind(source.kind).formats, source.architecture
    if "huggingface" not in formats:
        return NO_REFERENCE, None
    if source.origin == "huggingface" and path is not None and path.is_dir():
        answer = _transformers(a, path, images)
        return (NO_REFERENCE if answer is None else "transformers, on the folder itself"), answer
    if "timm" in formats and not refusal("timm", a):
        answer = _timm(source, images)
        if answer is not None:
            return "timm's Beit holding the source's weights", answer
    if not refusal("huggingface", a):
        with tempfile.TemporaryDirectory(prefix="beitv2_") as folder:
            _write_folder(source, Path(folder))
            answer = _transformers(a, Path(folder), images)
        if answer is not None:
            return "transformers holding the source's weights", answer
    return NO_REFERENCE, None


def _timm(source: IdentifiedWeights, images: np.ndarray) -> np.ndarray | None:
    try:
        import torch
        from timm.models.beit import Beit
    except ImportError:
        return None
    a = source.architecture
    if a["attn_head_dim"]:
        return None  # its constructor has no setting for it
    model = Beit(**arguments_of(a))
    state = to_format("timm", find_kind(source.kind), source.weights, a)
    tensors = {name: torch.tensor(np.ascontiguousarray(array)) for name, array in state.items()}
    model.load_state_dict(tensors, strict=True)
    with torch.no_grad():
        return np.asarray(model.float().eval()(torch.from_numpy(images)).numpy())


def _transformers(architecture: Mapping[str, Any], folder: Path, images: np.ndarray) -> np.ndarray | None:
    name = class_of(architecture)
    try:
        import torch
        import transformers

        loader: Any = getattr(transformers, name)  # imported now; fails where Torch is too old for it
    except ImportError:
        return None
    model, report = loader.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    missing = report["missing_keys"] or report["mismatched_keys"]
    if missing:
        raise CheckpointError(f"{folder}: transformers misses {', '.join(sorted(map(str, missing))[:4])}.")
    with torch.no_grad():
        answer = model.float().eval()(torch.from_numpy(images))
    return np.asarray((answer.pooler_output if name == "BeitModel" else answer.logits).numpy())


def _write_folder(source: IdentifiedWeights, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(config_of(source.architecture)), encoding="utf-8")
    state = to_format("huggingface", find_kind(source.kind), source.weights, source.architecture)
    write_safetensors(folder / "model.safetensors", state, {"format": "pt"})
