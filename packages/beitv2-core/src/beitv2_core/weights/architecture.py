# SPDX-License-Identifier: Apache-2.0
"""The architecture of weights, read from their names and shapes.

An architecture is a JSON-able dictionary: the keyword arguments of the model it builds (`models.backbone.BEiTBackbone`
and what stands around it).  Weights are under our names, linear ones (in, out).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from beitv2_core.errors import CheckpointError
from beitv2_core.rel_pos_index import table_rows, window_of
from beitv2_core.weights.shapes import TABLE

#: heads of the published widths; only a relative position table says how many there are
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
NORM_EPS = 1e-6  # of the norms of every published model
#: blocks before the [CLS] head and tapped blocks of the published models, which weights do not tell, by depth
PUBLISHED = ((768, 12), (1024, 24))  # (width, depth)
EARLY_LAYERS = {12: 9, 24: 21}
TAPS = {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}
POOL_SCALES = (1, 2, 3, 6)


def read_architecture(kind: str, weights: Mapping[str, np.ndarray], *, origin: str = "ours",
                      grid: tuple[int, int] | None = None, num_heads: int | None = None,
                      early_layers: int | None = None, out_indices: Sequence[int] | None = None,
                      pool_scales: Sequence[int] | None = None, assumed: list[str] | None = None) -> dict[str, Any]:
    """The architecture of the weights of a `kind`; what they do not tell is given, or follows the published models.

    grid: window of patches where it is not square; num_heads: without a relative position table (default: of the
    published model of that width); early_layers: blocks before the [CLS] head, out_indices: the four tapped blocks of
    a segmenter (default of both: the published ones, for files of base or large with official names);
    pool_scales: of its pyramid (default: 1, 2, 3, 6 for four).  Where there is no default the value is None: not known.
    assumed: gets a line for every default that was taken.
    Raises CheckpointError naming a tensor that is missing, and where a grid cannot be told.
    """
    source = _Source(weights, [] if assumed is None else assumed)

    def published(trunk: Mapping[str, Any]) -> bool:
        return origin == "official" and (trunk["width"], trunk["depth"]) in PUBLISHED

    if kind == "clip":
        return _clip(source, num_heads)
    if kind == "tokenizer":
        encoder = _trunk(source, "encoder.", grid, num_heads)
        decoder = _trunk(source, "decoder.", grid, num_heads)
        codes, code_dim = source.shape("quantize.codebook")
        return {"encoder": encoder, "decoder": decoder, "num_codes": codes, "code_dim": code_dim,
                "teacher_width": source.shape("decode_task_layer.2.bias")[0]}
    if kind == "segmentation":
        trunk = _trunk(source, "backbone.", grid, num_heads)
        bins = source.count("decode_head.psp_modules.")
        usual = TAPS[trunk["depth"]] if published(trunk) else (0, 1, 2, 3) if trunk["depth"] == 4 else None
        taps = source.default("out_indices", out_indices, usual)  # of four blocks all, unless one is tapped twice
        scales = source.default("pool_scales", pool_scales, POOL_SCALES if bins == len(POOL_SCALES) else None)
        _check_counts(trunk["depth"], taps, bins, scales)
        return {"backbone": trunk, "num_classes": source.shape("decode_head.conv_seg.bias")[0],
                "channels": source.shape("decode_head.conv_seg.weight")[1],
                "aux_channels": source.shape("auxiliary_head.conv_seg.weight")[1],
                "pool_scales": scales or [None] * bins, "out_indices": taps}
    trunk = _trunk(source, "", grid, num_heads)
    norm = "pool" if "fc_norm.weight" in weights else "final" if "norm.weight" in weights else "none"
    if kind == "classifier":
        return {**trunk, "num_classes": source.shape("head.bias")[0], "pooling": "mean" if norm == "pool" else "cls"}
    if kind == "pretraining":
        found = {**trunk, "num_codes": source.shape("lm_head.bias")[0]}
        layers = source.count("cls_pt_layers.")
        if layers:
            default = EARLY_LAYERS[trunk["depth"]] if published(trunk) else None
            early = source.default("early_layers", early_layers, default)
            found.update(early_layers=early, head_layers=layers, share_lm_head="cls_pt_lm_head.weight" not in weights)
        return found
    return {**trunk, "norm": norm} if kind == "backbone" else trunk


def default_taps(size: str | None, depth: int) -> tuple[int, ...]:
    """The blocks a segmenter of ours taps where its settings do not say: the published ones of a size, or quarters.

    Fewer than four blocks are tapped more than once: 0, 1, 2, 2 of three.
    """
    up = 3 if depth < 4 else 0  # rounded down, the first quarter of three blocks would be none
    quarters = tuple((depth * i + up) // 4 - 1 for i in range(1, 5))
    return TAPS.get(depth, quarters) if size in ("base", "large") else quarters


def _check_counts(depth: int, taps: list[int] | None, bins: int, scales: list[int] | None) -> None:
    if taps is not None and (len(taps) != 4 or sorted(taps) != taps or not 0 <= taps[0] <= taps[-1] < depth):
        raise CheckpointError(f"out_indices {taps}: expected four block numbers, none below the one before, of 0 .. "
                              f"{depth - 1}. Correct --out-indices.")
    if scales is not None and len(scales) != bins:
        raise CheckpointError(f"pool_scales {scales}: the weights have {bins} pooling branches. Give {bins} numbers "
                              "(--pool-scales).")


class _Source:
    """Shapes by name; a missing one is an error that names it."""

    def __init__(self, weights: Mapping[str, np.ndarray], assumed: list[str]):
        self.weights, self.assumed = weights, assumed

    def default(self, name: str, given: Any, published: Any) -> Any:
        """What was given, or the published model's value, which is noted; lists as JSON has them."""
        if given is None and published is not None:
            line = f"{name} {' '.join(map(str, published)) if isinstance(published, tuple) else published}"
            line += f" as the published model (--{name.replace('_', '-')})"
            if line not in self.assumed:
                self.assumed.append(line)
        value = published if given is None else given
        return list(value) if isinstance(value, (list, tuple)) else value

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self.weights:
            raise CheckpointError(f"{name} is missing. The file is incomplete, or of another kind.")
        return tuple(self.weights[name].shape)

    def count(self, prefix: str) -> int:
        """How many numbered parts there are; CheckpointError where a number is left out."""
        numbers = {int(found[1]) for found in (re.match(re.escape(prefix) + r"(\d+)\.", name) for name in self.weights)
                   if found}
        missing = sorted(set(range(max(numbers, default=-1) + 1)) - numbers)
        if missing:
            raise CheckpointError(f"{prefix}{missing[0]} is missing, {prefix}{max(numbers)} is there. The file is "
                                  "incomplete.")
        return len(numbers)


def _trunk(source: _Source, prefix: str, grid: tuple[int, int] | None, num_heads: int | None) -> dict[str, Any]:
    weights = source.weights
    width, in_chans, *patch = source.shape(f"{prefix}patch_embed.proj.weight")
    depth = source.count(f"{prefix}blocks.")
    if not depth:
        raise CheckpointError(f"{prefix}blocks.0 is missing. The file is incomplete, or of another kind.")
    block = f"{prefix}blocks.0."
    own, shared = f"{block}attn.{TABLE}", f"{prefix}rel_pos_bias.{TABLE}"
    tables = [name for name in (own, shared) if name in weights]
    heads = source.shape(tables[0])[1] if tables else source.default("num_heads", num_heads, HEADS.get(width))
    absolute = f"{prefix}pos_embed" in weights
    window = _grid(source, prefix, grid, tables[0] if tables else None, absolute)
    inner = source.shape(f"{block}attn.qkv.weight")[1] // 3
    if heads is None and inner != width:
        raise CheckpointError(f"how many heads share the {inner} channels of its attention is not in the weights. Say "
                              "it with --num-heads.")
    return {
        "image_size": [window[0] * patch[0], window[1] * patch[1]], "patch_size": list(patch), "in_chans": in_chans,
        "width": width, "depth": depth, "num_heads": heads,
        "mlp_ratio": source.shape(f"{block}mlp.fc1.bias")[0] / width, "qkv_bias": f"{block}attn.q_bias" in weights,
        # What layer scale started from is not in the weights; any value but 0 makes its tensors.
        "init_values": 0.1 if f"{block}gamma_1" in weights else None,
        "use_abs_pos_emb": absolute, "use_rel_pos_bias": own in weights, "use_shared_rel_pos_bias": shared in weights,
        "use_mask_token": f"{prefix}mask_token" in weights,
        "attn_head_dim": None if inner == width else inner // heads,
        "norm_eps": NORM_EPS,
    }


def _grid(source: _Source, prefix: str, grid: tuple[int, int] | None, table: str | None,
          absolute: bool) -> tuple[int, int]:
    rows = source.shape(table)[0] if table else None
    patches = source.shape(f"{prefix}pos_embed")[1] - 1 if absolute else None
    if grid is not None:
        if rows not in (None, table_rows(grid)) or patches not in (None, grid[0] * grid[1]):
            raise CheckpointError(
                f"{prefix or 'the trunk'}: position terms have {rows or patches} rows, which a grid of {grid[0]} x "
                f"{grid[1]} patches does not give. Give the image size the weights were made for."
            )
        return grid
    if rows is not None:
        found = window_of(rows)
    elif patches is not None:
        side = math.isqrt(patches)
        found = (side, side) if side * side == patches else None
    else:
        found = (14, 14)  # without position terms any image will do; the published size
    if found is None:
        raise CheckpointError(
            f"{table or prefix + 'pos_embed'}: {rows or patches} rows are not of a square grid of patches, and nothing "
            "in the file says of which. Convert it with the image size it was made for (--source-size HEIGHT,WIDTH)."
        )
    return found


def _clip(source: _Source, num_heads: int | None) -> dict[str, Any]:
    width, _, patch, _ = source.shape("conv1.weight")
    side = math.isqrt(source.shape("positional_embedding")[0] - 1)
    return {"image_size": side * patch, "patch_size": patch, "width": width,
            "depth": source.count("transformer.resblocks."),
            "num_heads": source.default("num_heads", num_heads, HEADS.get(width)),
            "out_width": source.shape("proj")[1]}
