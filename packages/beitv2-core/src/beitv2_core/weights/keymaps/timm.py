# SPDX-License-Identifier: Apache-2.0
"""Names and layouts of timm's `Beit`, as pure functions of dictionaries of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

from numpy.typing import NDArray

from beitv2_core.weights.keymaps.official import INDEX, from_official, to_official


def from_timm(state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Our names and layouts for a state dict of timm's models `beit*` and `beitv2*`: the official names."""
    return from_official(state)


def to_timm(ours: Mapping[str, NDArray[Any]], grid: tuple[int, int] | None = None) -> dict[str, NDArray[Any]]:
    """timm's names and layouts: the official ones without the index buffers, which timm makes itself.

    Source: timm models/beit.py, Beit and checkpoint_filter_fn.
    """
    return {name: array for name, array in to_official(ours, grid).items() if not name.endswith(INDEX)}


def arguments_of(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of timm's `Beit` for a model of that architecture, all of them numbers, texts or lists."""
    a = architecture
    pooled = a.get("pooling") == "mean" or a.get("norm") == "pool"
    return {"img_size": list(a["image_size"]), "patch_size": list(a["patch_size"]), "in_chans": a["in_chans"],
            "num_classes": a.get("num_classes", 0), "global_pool": "avg" if pooled else "token",
            "embed_dim": a["width"], "depth": a["depth"], "num_heads": a["num_heads"], "qkv_bias": a["qkv_bias"],
            "mlp_ratio": a["mlp_ratio"], "init_values": a["init_values"] or 0.0,
            "use_abs_pos_emb": a["use_abs_pos_emb"], "use_rel_pos_bias": a["use_rel_pos_bias"],
            "use_shared_rel_pos_bias": a["use_shared_rel_pos_bias"]}


def config_of(architecture: Mapping[str, Any], *, crop_share: float, mean: Sequence[float], std: Sequence[float],
              classes: Optional[Sequence[str]] = None) -> dict[str, Any]:
    """The `config.json` of a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads.

    crop_share: of timm's `crop_pct`; mean, std: of images in [0, 1].
    Source: timm 1.0 models/_hub.py, save_config_for_hf.
    """
    arguments = arguments_of(architecture)
    classes_and_size = {"num_classes": arguments["num_classes"],
                        "input_size": [arguments["in_chans"], *arguments["img_size"]]}
    config: dict[str, Any] = {
        # the constructor; every size of it is in model_args
        "architecture": "beitv2_base_patch16_224", "num_classes": arguments["num_classes"],
        "num_features": arguments["embed_dim"], "global_pool": arguments["global_pool"],
        "model_args": {name: value for name, value in arguments.items() if name != "num_classes"},
        "pretrained_cfg": {**classes_and_size, "fixed_input_size": True, "pool_size": None, "crop_pct": crop_share,
                           "crop_mode": "center", "interpolation": "bicubic", "mean": list(mean), "std": list(std),
                           "first_conv": "patch_embed.proj", "classifier": "head"},
    }
    if classes is not None:
        config["label_names"] = list(classes)
    return config
