# SPDX-License-Identifier: Apache-2.0
"""The trunk as a segmentation backbone: four taps, four scales.

Shape suffixes: B batch, N patches, D width, h w patch rows and columns.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import paddle

from beitv2_core.errors import ShapeError
from beitv2_core.models.backbone import SIZES, BEiTBackbone
from beitv2_seg.model.pyramid import pyramid_levels
from beitv2_seg.model.taps import default_taps

log = logging.getLogger("beitv2_seg")


class BEiTv2(BEiTBackbone):
    """BEiT v2 for dense prediction: images (B, 3, H, W) -> four maps (B, width, H / s, W / s), s = 4, 8, 16, 32.

    size: "tiny" .. "huge" names width, depth and heads; single values given beside it win.  image_size: pixels of an
    image, one side or [height, width]; in_channels: channels of an image.  out_indices: the four
    blocks that are tapped, in rising order (default: the published ones, or quarters of the depth).  pretrained: a
    pretraining or fine-tuning run, a .pdckpt or a file of published weights, strictly loaded: a shared bias is copied
    into each block and tables are resized.  pretrained_image_size: pixels a lone weights file was pretrained with;
    pretrained_sha256: hash a weights file must have; pretrained_ema: its averaged weights (true), the others (false),
    or the trained ones where there are both (null).  Other keywords: `BEiTBackbone`'s.
    Images must have the size the bias tables were made for (`image_size`, height and width).
    Source: official semantic_segmentation/backbone/beit.py.  Maps are raw block outputs, without a final norm.
    """

    def __init__(self, *, size: str | None = None, image_size: int | Sequence[int] = 512, patch_size: int = 16,
                 out_indices: Sequence[int] | None = None, drop_path: float = 0.0, init_values: float | None = 0.1,
                 use_rel_pos_bias: bool = True, pretrained: str | None = None, pretrained_image_size: int = 224,
                 pretrained_sha256: str | None = None, pretrained_ema: bool | None = None, in_channels: int = 3,
                 **backbone: Any):
        if size is not None and size not in SIZES:
            raise ShapeError(f"BEiTv2: size is {size!r}; expected one of {', '.join(SIZES)}, or width, depth and "
                             "num_heads.")
        options = {**(SIZES[size] if size else {}), **backbone}
        options.setdefault("patch_size", patch_size)
        super().__init__(image_size=image_size, drop_path=drop_path, init_values=init_values, in_chans=in_channels,
                         use_rel_pos_bias=use_rel_pos_bias, norm="none", **options)
        taps = tuple(out_indices) if out_indices is not None else default_taps(size, self.depth)
        if len(taps) != 4 or sorted(taps) != list(taps) or not 0 <= taps[0] <= taps[-1] < self.depth:
            raise ShapeError(f"BEiTv2: out_indices is {list(taps)}; expected four block numbers, none below "
                             f"the one before, of 0 .. {self.depth - 1}. Correct out_indices (model.backbone), or "
                             "leave it out: quarters of the depth.")
        self.out_indices = taps
        self.feat_channels = [self.width] * 4
        self.fpn1, self.fpn2, self.fpn3, self.fpn4 = pyramid_levels(self.patch_size[0], self.width)
        if pretrained is not None:
            load_pretrained(self, pretrained, image_size=pretrained_image_size, sha256=pretrained_sha256,
                            ema=pretrained_ema)

    def forward(  # type: ignore[override]  # a backbone gives maps, not one vector
        self, images: paddle.Tensor
    ) -> list[paddle.Tensor]:
        """The four maps, finest first."""
        _, tapped = self.forward_tokens(images, taps=self.out_indices)
        grid = (images.shape[2] // self.patch_size[0], images.shape[3] // self.patch_size[1])
        levels = (self.fpn1, self.fpn2, self.fpn3, self.fpn4)
        return [level(_as_map(tapped[tap], grid)) for level, tap in zip(levels, self.out_indices)]


def _as_map(tokens_BTD: paddle.Tensor, grid: tuple[int, int]) -> paddle.Tensor:
    return tokens_BTD[:, 1:].transpose([0, 2, 1]).reshape([0, tokens_BTD.shape[2], *grid])


def load_pretrained(model: BEiTv2, source: str, *, image_size: int = 224, sha256: str | None = None,
                    ema: bool | None = None) -> list[str]:
    """Put a pretrained trunk below the pyramid; returns the names that stayed fresh (the pyramid's).

    Raises CheckpointError naming a checkpoint of another kind or size.  Source: official mmcv_custom/checkpoint.py.
    """
    from beitv2_core.assembly.loaded_weights import Hints
    from beitv2_core.assembly.restore import read_checkpoint, settings_of
    from beitv2_core.assembly.transfer import PRETRAINING_ONLY, transfer_trunk
    from beitv2_core.config.schema import grid_of
    from beitv2_core.errors import CheckpointError

    found = read_checkpoint(source, sha256=sha256, wanted=("pretraining", "classifier"), hints=Hints(ema=ema))
    grid = found.grid or grid_of(image_size, model.patch_size[0])
    if found.config:
        settings = settings_of(found)
        if not hasattr(settings, "grid") or settings.kind == "tokenizer":
            raise CheckpointError(f"{found.path}: this is a {found.config.get('kind')!r} run; segmentation starts from "
                                  "a pretraining or fine-tuning run. Give that as pretrained.")
        grid = settings.grid
    drop = (*PRETRAINING_ONLY, "fc_norm.", "head.")
    fresh = transfer_trunk(model, found.weights, str(found.path), source_grid=grid, fresh=("fpn",), drop=drop)
    loaded = len(model.state_dict()) - len(fresh)
    log.info("backbone: %d tensors from %s (made for %d x %d patches, here %d x %d); %d of the pyramid are fresh",
             loaded, found.path, *grid, *model.grid, len(fresh))
    return fresh
