# SPDX-License-Identifier: Apache-2.0
"""The architecture of weights, read from their names and shapes.

An architecture is a JSON-able dictionary: the keyword arguments of the model it builds (`models.backbone.BEiTBackbone`
and models around it).  Weights are under our names, linear ones (in, out).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from numpy.typing import NDArray

from beitv2_core.errors import CheckpointError
from beitv2_core.rel_pos_index import table_rows, window_of
from beitv2_core.weights.keymaps.official import TABLE

#: heads of the published widths; of all tensors only a relative position table tells their number
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
NORM_EPS = 1e-6  # of the norms of every published model
#: (width, depth) of the published models
PUBLISHED = ((768, 12), (1024, 24))
#: the arguments of a trunk, as `read_trunk` gives them
TRUNK_SETTINGS = ("image_size", "patch_size", "in_chans", "width", "depth", "num_heads", "mlp_ratio", "qkv_bias",
                  "init_values", "use_abs_pos_emb", "use_rel_pos_bias", "use_shared_rel_pos_bias", "use_mask_token",
                  "attn_head_dim", "norm_eps")
#: those without which nothing is a trunk; any other that a stored trunk lacks came after it was stored
NEEDED = ("image_size", "patch_size", "width", "depth", "num_heads")


class ShapeReader:
    """Weights to read an architecture from, and what is known besides them.

    origin: whose names the file has; grid: its window of patches (rows, columns), where it is known; hints: values the
    user gave (`Kind.untold`); settings: of the run the weights come from, None for a lone file.  assumed: a line for
    every value that was taken from the published models because nothing tells it.
    """

    def __init__(self, weights: Mapping[str, NDArray[Any]], *, origin: str = "ours",
                 grid: Optional[tuple[int, int]] = None, hints: Mapping[str, Any] = {},
                 settings: Optional[Mapping[str, Any]] = None):
        self.weights, self.origin, self.grid, self.hints, self.settings = weights, origin, grid, hints, settings
        self.assumed: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self.weights

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; CheckpointError naming one that is missing."""
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

    def told(self, name: str, published: Any = None) -> Any:
        """The user's value or that of the run's settings, or else the published models'; None: not known.

        A published value is noted in `assumed`; tuples become lists, as in JSON.
        """
        value = self.hints.get(name)
        if value is None and self.settings is not None:
            value = self.settings.get(name)
        if value is None and published is not None:
            shown = ",".join(map(str, published)) if isinstance(published, tuple) else published
            line = f"{name}={shown} as the published model has it (another value: --set {name}=...)"
            if line not in self.assumed:
                self.assumed.append(line)
            value = published
        return list(value) if isinstance(value, (list, tuple)) else value

    def is_published(self, trunk: Mapping[str, Any]) -> bool:
        """Whether these may be the authors' own weights: their names, base or large."""
        return self.origin == "official" and (trunk["width"], trunk["depth"]) in PUBLISHED


def read_trunk(source: ShapeReader, prefix: str = "") -> dict[str, Any]:
    """The architecture of a trunk whose names begin with `prefix` (`TRUNK_SETTINGS`).

    Raises CheckpointError naming a tensor that is missing, and where its grid of patches cannot be told.
    """
    width, in_chans, *patch = source.shape(f"{prefix}patch_embed.proj.weight")
    depth = source.count(f"{prefix}blocks.")
    if not depth:
        raise CheckpointError(f"{prefix}blocks.0 is missing. The file is incomplete, or of another kind.")
    block = f"{prefix}blocks.0."
    own, shared = f"{block}attn.{TABLE}", f"{prefix}rel_pos_bias.{TABLE}"
    tables = [name for name in (own, shared) if name in source]
    heads = source.shape(tables[0])[1] if tables else source.told("num_heads", HEADS.get(width))
    absolute = f"{prefix}pos_embed" in source
    window = _grid(source, prefix, tables[0] if tables else None, absolute)
    inner = source.shape(f"{block}attn.qkv.weight")[1] // 3
    if heads is None and inner != width:
        raise CheckpointError(f"how many heads share the {inner} channels of its attention is not in the weights. Give "
                              "it by --set num_heads=N.")
    return {
        "image_size": [window[0] * patch[0], window[1] * patch[1]], "patch_size": list(patch), "in_chans": in_chans,
        "width": width, "depth": depth, "num_heads": heads,
        "mlp_ratio": source.shape(f"{block}mlp.fc1.bias")[0] / width, "qkv_bias": f"{block}attn.q_bias" in source,
        # What layer scale started from is not in the weights; any value but 0 makes its tensors.
        "init_values": 0.1 if f"{block}gamma_1" in source else None,
        "use_abs_pos_emb": absolute, "use_rel_pos_bias": own in source, "use_shared_rel_pos_bias": shared in source,
        "use_mask_token": f"{prefix}mask_token" in source,
        "attn_head_dim": None if inner == width else inner // heads,
        "norm_eps": NORM_EPS,
    }


def completed(stored: Mapping[str, Any], known: Mapping[str, Any], trunks: Sequence[str]) -> dict[str, Any]:
    """A stored architecture with every keyword of today; one that it lacks means what it does where nothing tells.

    known: what is read from the weights themselves, whose values stand in for those of keywords that came later: a
    trunk as it was before the keyword.  trunks: the parts that are trunks ("": the whole).
    Raises KeyError for what cannot be missing, UnknownKeywords for what a later version stored.
    """
    whole = {**known, **stored}
    unknown = [name for name in stored if name not in known]
    for part in trunks:
        inside = stored[part] if part else stored
        missing = [name for name in NEEDED if name not in inside]
        if missing:
            raise KeyError(missing[0])
        if part:
            whole[part] = {**known[part], **inside}
            unknown += [f"{part}.{name}" for name in inside if name not in known[part]]
    if unknown:
        raise UnknownKeywords(*unknown)
    return whole


class UnknownKeywords(Exception):
    """Keywords of a stored architecture that this version does not have, as arguments."""


def norm_of(names: Any, prefix: str = "") -> str:
    """Which norm ends a trunk, as `BEiTBackbone` calls it: "pool", "final" or "none"."""
    return "pool" if f"{prefix}fc_norm.weight" in names else "final" if f"{prefix}norm.weight" in names else "none"


def grid_of(trunk: Mapping[str, Any]) -> tuple[int, int]:
    """(rows, columns) of patches of a trunk's architecture."""
    (height, width), (patch_height, patch_width) = trunk["image_size"], trunk["patch_size"]
    return height // patch_height, width // patch_width


def _grid(source: ShapeReader, prefix: str, table: Optional[str], absolute: bool) -> tuple[int, int]:
    rows = source.shape(table)[0] if table else None
    patches = source.shape(f"{prefix}pos_embed")[1] - 1 if absolute else None
    grid = source.grid
    if grid is not None:
        if rows not in (None, table_rows(grid)) or patches not in (None, grid[0] * grid[1]):
            raise CheckpointError(
                f"{prefix or 'the trunk'}: position terms have {rows or patches} rows, which a grid of {grid[0]} x "
                f"{grid[1]} patches does not give. Give the image size the weights were made for."
            )
        return grid
    found: Optional[tuple[int, int]] = (14, 14)  # without position terms any image will do; the published size
    if rows is not None:
        found = window_of(rows)
    elif patches is not None:
        side = math.isqrt(patches)
        found = (side, side) if side * side == patches else None
    if found is None:
        raise CheckpointError(
            f"{table or prefix + 'pos_embed'}: {rows or patches} rows are not of a square grid of patches, and nothing "
            "in the file tells which grid. Convert it with the image size it was made for (--source-size HEIGHT,WIDTH)."
        )
    return found
