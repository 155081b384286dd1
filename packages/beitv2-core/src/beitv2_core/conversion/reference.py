# SPDX-License-Identifier: Apache-2.0
"""What PyTorch's own classes answer, where they are installed: timm's `Beit`, transformers' `Beit*`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..weights.formats import refusal, to_format
from ..weights.keymaps.huggingface import config_of
from ..weights.kinds import Recognised
from ..weights.writers import write_safetensors

NO_REFERENCE = "no code to run the source with: its tensors were compared, and that outputs are finite"
_CLASSES = {"classifier": "BeitForImageClassification", "pretraining": "BeitForMaskedImageModeling",
            "backbone": "BeitModel"}
_KEYS = {"classifier": "logits", "pretraining": "mim logits", "backbone": "features"}


def torch_outputs(source: Recognised, path: Path | None, inputs: list[np.ndarray]) -> tuple[str, dict[str, np.ndarray]]:
    """Who answered, and the answer by output name; none where no class for this kind is installed.

    source: the model under our names; path: where it came from: a folder of transformers is loaded by transformers
    itself.  inputs: images (B, 3, H, W).
    """
    if source.kind not in _KEYS:
        return NO_REFERENCE, {}
    if source.origin == "huggingface" and path is not None and path.is_dir():
        answer = _transformers(source.kind, path, inputs[0])
        return ("transformers, on the folder itself", answer) if answer else (NO_REFERENCE, {})
    if source.kind != "pretraining" and not refusal("timm", source.kind, source.architecture):
        answer = _timm(source, inputs[0])
        if answer:
            return "timm's Beit holding the source's weights", answer
    if not refusal("huggingface", source.kind, source.architecture):
        with tempfile.TemporaryDirectory(prefix="beitv2_") as folder:
            _write_folder(source, Path(folder))
            answer = _transformers(source.kind, Path(folder), inputs[0])
        if answer:
            return "transformers holding the source's weights", answer
    return NO_REFERENCE, {}


def _timm(source: Recognised, images: np.ndarray) -> dict[str, np.ndarray]:
    try:
        import torch
        from timm.models.beit import Beit
    except ImportError:
        return {}
    a = source.architecture
    pooled = a.get("pooling") == "mean" or a.get("norm") == "pool"
    if a["attn_head_dim"]:
        return {}  # its constructor has no setting for it
    model = Beit(img_size=tuple(a["image_size"]), patch_size=tuple(a["patch_size"]), in_chans=a["in_chans"],
                 num_classes=a.get("num_classes", 0), global_pool="avg" if pooled else "token", embed_dim=a["width"],
                 depth=a["depth"], num_heads=a["num_heads"], qkv_bias=a["qkv_bias"], mlp_ratio=a["mlp_ratio"],
                 init_values=a["init_values"], use_abs_pos_emb=a["use_abs_pos_emb"],
                 use_rel_pos_bias=a["use_rel_pos_bias"], use_shared_rel_pos_bias=a["use_shared_rel_pos_bias"])
    state = to_format("timm", source.kind, source.weights, a)
    tensors = {name: torch.tensor(np.ascontiguousarray(array)) for name, array in state.items()}
    model.load_state_dict(tensors, strict=True)
    with torch.no_grad():
        return {_KEYS[source.kind]: model.float().eval()(torch.from_numpy(images)).numpy()}


def _transformers(kind: str, folder: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    try:
        import torch
        import transformers

        loader: Any = getattr(transformers, _CLASSES[kind])  # imported now; fails where Torch is too old for it
    except ImportError:
        return {}
    model, report = loader.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    missing = report["missing_keys"] or report["mismatched_keys"]
    if missing:
        raise CheckpointError(f"{folder}: transformers misses {', '.join(sorted(map(str, missing))[:4])}.")
    with torch.no_grad():
        answer = model.float().eval()(torch.from_numpy(images))
    value = answer.pooler_output if kind == "backbone" else answer.logits
    return {_KEYS[kind]: value.numpy()}


def _write_folder(source: Recognised, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(config_of(source.kind, source.architecture)), encoding="utf-8")
    state = to_format("huggingface", source.kind, source.weights, source.architecture)
    write_safetensors(folder / "model.safetensors", state, {"format": "pt"})
