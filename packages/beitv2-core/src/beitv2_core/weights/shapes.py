# SPDX-License-Identifier: Apache-2.0
"""Names and shapes of the tensors a model of a given architecture holds, under our names, linear weights (in, out)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beitv2_core.rel_pos_index import table_rows

TABLE = "relative_position_bias_table"
Shapes = dict[str, tuple[int, ...]]


def shapes_of(kind: str, architecture: Mapping[str, Any]) -> Shapes:
    """Name and shape of every tensor a model of that kind and architecture holds."""
    a = architecture
    if kind == "clip":
        return _clip_shapes(a)
    if kind == "tokenizer":
        shapes = _under("encoder.", _trunk_shapes(a["encoder"], "pool"))
        shapes.update(_under("decoder.", _trunk_shapes(a["decoder"], "pool")))
        codes, code_dim = a["num_codes"], a["code_dim"]
        shapes.update({"quantize.codebook": (codes, code_dim), "quantize.cluster_size": (codes,),
                       "quantize.initted": (1,)})
        for name, width, out in (("encode", a["encoder"]["width"], code_dim),
                                 ("decode", a["decoder"]["width"], a["teacher_width"])):
            shapes.update(_linear(f"{name}_task_layer.0", width, width))
            shapes.update(_linear(f"{name}_task_layer.2", width, out))
        return shapes
    if kind == "segmentation":
        return _segmentation_shapes(a)
    if kind == "classifier":
        shapes = _trunk_shapes(a, "pool" if a["pooling"] == "mean" else "final")
        return {**shapes, **_linear("head", a["width"], a["num_classes"])}
    if kind == "pretraining":
        shapes = {**_trunk_shapes(a, "final"), **_linear("lm_head", a["width"], a["num_codes"])}
        for i in range(a.get("head_layers", 0)):
            shapes.update(_block_shapes(f"cls_pt_layers.{i}.", a))
        if not a.get("share_lm_head", True):
            shapes.update(_norm("cls_pt_norm", a["width"]))
            shapes.update(_linear("cls_pt_lm_head", a["width"], a["num_codes"]))
        return shapes
    if kind == "dino":
        shapes = _trunk_shapes({**a, "qkv_bias": False}, "final")
        return {**shapes, **{f"blocks.{i}.attn.qkv.bias": (3 * a["width"],) for i in range(a["depth"])}}
    return _trunk_shapes(a, a.get("norm", "final"))


def grid_of(trunk: Mapping[str, Any]) -> tuple[int, int]:
    """(rows, columns) of patches of a trunk's architecture."""
    (height, width), (patch_height, patch_width) = trunk["image_size"], trunk["patch_size"]
    return height // patch_height, width // patch_width


def _under(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


def _linear(name: str, width: int, out: int) -> Shapes:
    return {f"{name}.weight": (width, out), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _block_shapes(prefix: str, trunk: Mapping[str, Any]) -> Shapes:
    width, inner = trunk["width"], (trunk["attn_head_dim"] or 0) * (trunk["num_heads"] or 0) or trunk["width"]
    hidden = int(width * trunk["mlp_ratio"])
    shapes: Shapes = {**_norm("norm1", width), **_norm("norm2", width), "attn.qkv.weight": (width, 3 * inner),
                      **_linear("attn.proj", inner, width), **_linear("mlp.fc1", width, hidden),
                      **_linear("mlp.fc2", hidden, width)}
    if trunk["qkv_bias"]:
        shapes.update({"attn.q_bias": (inner,), "attn.v_bias": (inner,)})
    if trunk["init_values"]:
        shapes.update({"gamma_1": (width,), "gamma_2": (width,)})
    if trunk["use_rel_pos_bias"]:
        shapes[f"attn.{TABLE}"] = (table_rows(grid_of(trunk)), trunk["num_heads"])
    return _under(prefix, shapes)


def _trunk_shapes(trunk: Mapping[str, Any], norm: str) -> Shapes:
    width, grid = trunk["width"], grid_of(trunk)
    shapes: Shapes = {"cls_token": (1, 1, width), "patch_embed.proj.bias": (width,),
                      "patch_embed.proj.weight": (width, trunk["in_chans"], *trunk["patch_size"])}
    if trunk["use_mask_token"]:
        shapes["mask_token"] = (1, 1, width)
    if trunk["use_abs_pos_emb"]:
        shapes["pos_embed"] = (1, 1 + grid[0] * grid[1], width)
    if trunk["use_shared_rel_pos_bias"]:
        shapes[f"rel_pos_bias.{TABLE}"] = (table_rows(grid), trunk["num_heads"])
    for i in range(trunk["depth"]):
        shapes.update(_block_shapes(f"blocks.{i}.", trunk))
    if norm != "none":
        shapes.update(_norm("fc_norm" if norm == "pool" else "norm", width))
    return shapes


def _segmentation_shapes(a: Mapping[str, Any]) -> Shapes:
    trunk, channels, classes = a["backbone"], a["channels"], a["num_classes"]
    width, bins = trunk["width"], len(a["pool_scales"])
    shapes = _under("backbone.", _trunk_shapes(trunk, "none"))
    if trunk["patch_size"][0] == 16:
        pyramid = {**_double("fpn1.0", width), **_batch_norm("fpn1.1", width), **_double("fpn1.3", width),
                   **_double("fpn2.0", width)}
    else:
        pyramid = _double("fpn1.0", width)
    shapes.update(_under("backbone.", pyramid))
    for name, into, kernel in [
        *((f"psp_modules.{i}.1", width, 1) for i in range(bins)), ("bottleneck", width + bins * channels, 3),
        *((f"lateral_convs.{i}", width, 1) for i in range(3)), *((f"fpn_convs.{i}", channels, 3) for i in range(3)),
        ("fpn_bottleneck", 4 * channels, 3),
    ]:
        shapes.update(_conv(f"decode_head.{name}", into, channels, kernel))
    shapes.update(_conv("auxiliary_head.convs.0", width, a["aux_channels"], 3))
    for head, into in (("decode_head", channels), ("auxiliary_head", a["aux_channels"])):
        shapes.update({f"{head}.conv_seg.weight": (classes, into, 1, 1), f"{head}.conv_seg.bias": (classes,)})
    return shapes


def _double(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width, width, 2, 2), f"{name}.bias": (width,)}


def _batch_norm(name: str, width: int) -> Shapes:
    return {f"{name}.{part}": (width,) for part in ("weight", "bias", "_mean", "_variance")}


def _conv(name: str, into: int, out: int, kernel: int) -> Shapes:
    return {f"{name}.conv.weight": (out, into, kernel, kernel), **_batch_norm(f"{name}.bn", out)}


def _clip_shapes(a: Mapping[str, Any]) -> Shapes:
    width, patch = a["width"], a["patch_size"]
    shapes: Shapes = {"class_embedding": (width,), "conv1.weight": (width, 3, patch, patch),
                      "positional_embedding": ((a["image_size"] // patch) ** 2 + 1, width),
                      "proj": (width, a["out_width"]), **_norm("ln_pre", width), **_norm("ln_post", width)}
    for i in range(a["depth"]):
        block = {**_norm("ln_1", width), **_norm("ln_2", width), "attn.in_proj_weight": (width, 3 * width),
                 "attn.in_proj_bias": (3 * width,), **_linear("attn.out_proj", width, width),
                 **_linear("mlp.c_fc", width, 4 * width), **_linear("mlp.c_proj", 4 * width, width)}
        shapes.update(_under(f"transformer.resblocks.{i}.", block))
    return shapes
