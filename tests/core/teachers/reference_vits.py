# SPDX-License-Identifier: Apache-2.0
"""The references of the published teachers, transformers and timm: their files, and their features of an image.

`python reference_vits.py` (with PyTorch, transformers and timm installed) records what `published_vits` reads.
Settings of published models: transformers' conversion scripts and defaults, config.json on Hugging Face, timm's models.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from published_vits import GRIDS, RECORD, images, weights

_TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_SMALL14, _SMALL16 = {**_TINY, "image_size": 56, "patch_size": 14}, {**_TINY, "image_size": 64, "patch_size": 16}
_V3 = {**_SMALL16, "intermediate_size": 64, "num_register_tokens": 4}
_GATED = {"use_gated_mlp": True, "hidden_act": "silu"}
#: a small model of every variant: teacher, class of the reference, its settings
SMALL: dict[str, tuple[str, str, dict[str, Any]]] = {
    "dinov2": ("dinov2", "Dinov2", _SMALL14),
    "dinov2_registers": ("dinov2", "Dinov2WithRegisters", {**_SMALL14, "num_register_tokens": 4}),
    "dinov2_gated": ("dinov2", "Dinov2", {**_SMALL14, "use_swiglu_ffn": True}),
    "dinov3": ("dinov3", "DINOv3ViT", _V3),
    "dinov3_gated": ("dinov3", "DINOv3ViT", {**_V3, **_GATED}),
    "dinov3_no_bias": ("dinov3", "DINOv3ViT", {**_V3, **_GATED, "query_bias": False, "value_bias": False}),
    "siglip": ("siglip2", "Siglip", {**_SMALL14, "intermediate_size": 80}),
    "clip": ("clip", "CLIP", {**_SMALL14, "intermediate_size": 128, "projection_dim": 24, "hidden_act": "quick_gelu"}),
    "eva02": ("eva_clip", "eva02_base_patch16_clip_224", {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64}),
    "eva_giant": ("eva_clip", "eva_giant_patch14_clip_224", {"embed_dim": 32, "depth": 2, "num_heads": 2,
                                                             "img_size": 56}),
    "eva_enormous": ("eva_clip", "eva02_enormous_patch14_clip_224", {"depth": 1, "num_heads": 2, "img_size": 56,
                                                                     "mlp_ratio": 0.05}),
}
_S = {"hidden_size": 384, "num_attention_heads": 6}
_B = {"hidden_size": 768, "num_attention_heads": 12}
_L = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
_LARGE = {**_L, "intermediate_size": 4096}
_SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
_GIANT_OPT = {"hidden_size": 1536, "intermediate_size": 6144, "num_hidden_layers": 40, "num_attention_heads": 16}
_G = {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True}
_R4 = {"num_register_tokens": 4}
PUBLISHED: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{f"dinov2-{size}": ("dinov2", "Dinov2", {"image_size": 518, **settings})
       for size, settings in (("small", _S), ("base", _B), ("large", _L), ("giant", _G))},
    **{f"dinov2-with-registers-{size}": ("dinov2", "Dinov2WithRegisters", {"image_size": 518, **settings, **_R4})
       for size, settings in (("small", _S), ("base", _B), ("large", _L), ("giant", _G))},
    "dinov3-vits16": ("dinov3", "DINOv3ViT", {**_S, "intermediate_size": 1536, **_R4}),
    "dinov3-vits16plus": ("dinov3", "DINOv3ViT", {**_S, "intermediate_size": 1536, **_R4, **_GATED}),
    "dinov3-vitb16": ("dinov3", "DINOv3ViT", {**_B, "intermediate_size": 3072, **_R4}),
    "dinov3-vitl16": ("dinov3", "DINOv3ViT", {**_LARGE, **_R4}),
    "dinov3-vith16plus": ("dinov3", "DINOv3ViT", {"hidden_size": 1280, "intermediate_size": 5120,
                                                  "num_hidden_layers": 32, "num_attention_heads": 20, **_R4, **_GATED}),
    "siglip2-base-patch16-224": ("siglip2", "Siglip", {}),
    "siglip2-base-patch32-256": ("siglip2", "Siglip", {"patch_size": 32, "image_size": 256}),
    "siglip2-base-patch16-512": ("siglip2", "Siglip", {"image_size": 512}),
    "siglip2-large-patch16-256": ("siglip2", "Siglip", {**_LARGE, "image_size": 256}),
    "siglip2-so400m-patch14-384": ("siglip2", "Siglip", {**_SO400M, "patch_size": 14, "image_size": 384}),
    "siglip2-so400m-patch16-256": ("siglip2", "Siglip", {**_SO400M, "image_size": 256}),
    "siglip2-giant-opt-patch16-256": ("siglip2", "Siglip", {**_GIANT_OPT, "image_size": 256}),
    "clip-vit-base-patch16": ("clip", "CLIP", {"patch_size": 16, "hidden_act": "quick_gelu"}),
    "clip-vit-large-patch14": ("clip", "CLIP", {**_LARGE, "patch_size": 14, "projection_dim": 768,
                                                "hidden_act": "quick_gelu"}),
    **{name: ("eva_clip", name, {"num_classes": classes}) for name, classes in (
        ("eva02_base_patch16_clip_224", 512), ("eva02_large_patch14_clip_224", 768),
        ("eva02_large_patch14_clip_336", 768), ("eva_giant_patch14_clip_224", 1024),
        ("eva02_enormous_patch14_clip_224", 1024))},
}


def file_shapes(family: str, settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the file the reference writes of a model."""
    with tempfile.TemporaryDirectory() as folder:
        model = _model(family, settings)
        if hasattr(model, "save_pretrained"):
            from safetensors import safe_open

            model.save_pretrained(folder)
            with safe_open(next(Path(folder).glob("*.safetensors")), "numpy") as file:
                return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def write(folder: Path, family: str, settings: dict[str, Any], state: dict[str, np.ndarray]) -> Callable[..., Any]:
    """Write the state as model.safetensors; returns the reference's features of normalised images (1, 3, H, W)."""
    import torch
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    model = _model(family, settings)
    if hasattr(model, "save_pretrained"):
        model.config.save_pretrained(folder)
        model, info = type(model).from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), info
    else:
        model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    model.eval()
    native = {name: getattr(model, name) for name in ("pos_embed",) if hasattr(model, name)}

    def patch_features(pixels: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return _features(model, family, torch.from_numpy(pixels), native).numpy()

    return patch_features


def normalised(teacher: str, pixels: np.ndarray) -> np.ndarray:
    """Images in [0, 1] as the reference's own image processor normalises them."""
    import transformers
    from timm.models.eva import default_cfgs

    processors = {"dinov3": "DINOv3ViTImageProcessor", "siglip2": "SiglipImageProcessor", "clip": "CLIPImageProcessor"}
    if teacher == "eva_clip":
        settings = default_cfgs["eva02_base_patch16_clip_224"].default
        mean, std = settings.mean, settings.std
    elif teacher == "dinov2":  # its preprocessor_config.json has ImageNet's numbers
        mean, std = transformers.image_utils.IMAGENET_DEFAULT_MEAN, transformers.image_utils.IMAGENET_DEFAULT_STD
    else:
        processor = getattr(transformers, processors[teacher])
        mean, std = processor.image_mean, processor.image_std
    mean, std = (np.asarray(values, np.float32).reshape(1, 3, 1, 1) for values in (mean, std))
    return (pixels - mean) / std


def _model(family: str, settings: dict[str, Any]) -> Any:
    if family.startswith("eva"):
        import timm

        return timm.create_model(family, **{"num_classes": 24, **settings})
    import transformers

    name = {"Siglip": "SiglipVision", "CLIP": "CLIPVision"}.get(family, family)
    kind = {"CLIP": "CLIPVisionModelWithProjection"}.get(family, f"{name}Model")
    return getattr(transformers, kind)(getattr(transformers, f"{name}Config")(**settings))


def _features(model: Any, family: str, pixels: Any, native: dict[str, Any]) -> Any:
    if family.startswith("eva"):
        patch = model.patch_embed.patch_size[0]
        rows = round((native["pos_embed"].shape[1] - 1) ** 0.5)
        model.set_input_size((rows * patch, rows * patch))
        model.pos_embed = native["pos_embed"]  # resized from the trained table, not from the last one
        model.set_input_size(tuple(pixels.shape[2:]))
        return model.head(model.forward_features(pixels)[:, 1:])
    if family == "CLIP":
        tokens = model.vision_model(pixels).last_hidden_state
        return model.visual_projection(model.vision_model.post_layernorm(tokens))[:, 1:]
    if family == "Siglip":
        side = model.config.image_size
        other = {} if tuple(pixels.shape[2:]) == (side, side) else {"interpolate_pos_encoding": True}
        return model(pixels, **other).last_hidden_state
    return model(pixels).last_hidden_state[:, 1 + getattr(model.config, "num_register_tokens", 0):]


def patch_of(settings: dict[str, Any], family: str) -> int:
    """Pixels of a side of a patch."""
    found = re.search(r"patch(\d+)", family)
    return int(found[1]) if found else settings["patch_size"]


def grids_of(teacher: str) -> tuple[tuple[int, int], ...]:
    """Grids whose position table is resized as the reference does; clip's follows the official VQ-KD code instead."""
    return GRIDS[:1] if teacher == "clip" else GRIDS


def record() -> None:
    """Write the names, shapes and features of all references."""
    import timm
    import torch
    import transformers

    small, published, arrays = {}, {}, {}
    for key, (teacher, family, settings) in SMALL.items():
        shapes = file_shapes(family, settings)
        patch = patch_of(settings, family)
        small[key] = {"teacher": teacher, "patch": patch, "tensors": shapes}
        with tempfile.TemporaryDirectory() as folder:
            run = write(Path(folder), family, settings, weights(shapes))
            for grid in grids_of(teacher):
                arrays[f"{key}/{grid[0]}x{grid[1]}"] = run(normalised(teacher, images(grid, patch)))
    for key, (teacher, family, settings) in PUBLISHED.items():
        timms = family.startswith("eva")
        full = _defaults(family, settings)
        depth = full.pop("depth")
        shapes = file_shapes(family, {**settings, "depth" if timms else "num_hidden_layers": 1})
        block = next(name[: name.index(".0.") + 3] for name in shapes if ".0." in name)
        published[key] = {"teacher": teacher, "depth": depth, "expected": full, "block": block[:-2] + "{}.",
                          "outer": {name: shape for name, shape in shapes.items() if not name.startswith(block)},
                          "inner": {name[len(block):]: shape for name, shape in shapes.items()
                                    if name.startswith(block)}}
    versions = {module.__name__: module.__version__ for module in (torch, transformers, timm)}
    RECORD.write_text(json.dumps({"versions": versions, "small": small, "published": published}) + "\n",
                      encoding="utf-8")
    np.savez_compressed(RECORD.with_suffix(".npz"), **arrays)


def _defaults(family: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Depth, heads and patch of a published model, as the reference's settings have them."""
    if family.startswith("eva"):
        import torch

        with torch.device("meta"):
            model = _model(family, settings)
        return {"depth": len(model.blocks), "num_heads": model.blocks[0].attn.num_heads,
                "patch_size": model.patch_embed.patch_size[0]}
    config = _model(family, {**settings, "num_hidden_layers": 1}).config
    whole = type(config)(**settings)
    return {"depth": whole.num_hidden_layers, "num_heads": whole.num_attention_heads, "patch_size": whole.patch_size}


if __name__ == "__main__":
    record()
