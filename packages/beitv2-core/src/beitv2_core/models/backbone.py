# SPDX-License-Identifier: Apache-2.0
"""The ViT trunk of every model: tokenizer encoder and decoder, pretraining, and what is fine-tuned.

Shape suffixes: `layers/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import paddle
from paddle import nn

from beitv2_core.errors import ShapeError
from beitv2_core.layers.attention import RelativePositionBias
from beitv2_core.layers.block import Block
from beitv2_core.layers.dropout import Dropout
from beitv2_core.layers.fast.layer_norm import LayerNorm
from beitv2_core.layers.fast.products import in_this_precision
from beitv2_core.layers.init import init_linears, kaiming_uniform_default, rescale_block, trunc_normal
from beitv2_core.layers.interpolate import bicubic_resize
from beitv2_core.layers.patch_embed import PatchEmbed
from beitv2_core.models.intermediates import Point, recorded
from beitv2_core.pixels.size import pair

#: width, depth, heads, and the MLP ratio and patch where they differ from 4 and 16.
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"width": 192, "depth": 12, "num_heads": 3},
    "small": {"width": 384, "depth": 12, "num_heads": 6},
    "base": {"width": 768, "depth": 12, "num_heads": 12},
    "large": {"width": 1024, "depth": 24, "num_heads": 16},
    "huge": {"width": 1280, "depth": 32, "num_heads": 16, "patch_size": 14},
}


class BEiTBackbone(nn.Layer):
    """A BEiT vision transformer without a head; parameter names are the official ones.

    images (B, C, h, w), already normalised -> tokens (B, T, D), class token first.

    Positions are one of three, or none.  use_abs_pos_emb: a table added to the tokens, resized bicubically to other
    image sizes; use_rel_pos_bias: a bias table in every block; use_shared_rel_pos_bias: one bias table for all blocks.
    norm: "final" normalises every token (`norm`), "pool" the mean of the patches (`fc_norm`), "none" leaves tokens
    raw.  init: "finetune" or "pretrain", the two official initialisations.  recompute: run each block again in the
    backward pass instead of keeping its activations.  in_chans: channels of an image; attn_head_dim: channels of a
    head, by default width / num_heads; use_mask_token: a learnt token that stands for masked patches.

    Raises ShapeError for an image that is no whole number of patches, or whose grid the positions cannot serve.
    Source: official modeling_finetune.py VisionTransformer, modeling_pretrain.py.
    Departs: a transposed grid of the same token count is refused under relative positions (official: runs silently).
    """

    def __init__(self, *, image_size: int | Sequence[int] = 224, patch_size: int | Sequence[int] = 16,
                 in_chans: int = 3, width: int = 768, depth: int = 12, num_heads: int = 12, mlp_ratio: float = 4.0,
                 qkv_bias: bool = True, drop_rate: float = 0.0, attn_drop_rate: float = 0.0, drop_path: float = 0.0,
                 init_values: float | None = None, use_abs_pos_emb: bool = False, use_rel_pos_bias: bool = False,
                 use_shared_rel_pos_bias: bool = False, use_mask_token: bool = False, norm: str = "final",
                 norm_eps: float = 1e-6, attn_head_dim: int | None = None, recompute: bool = False,
                 init: str = "finetune"):
        super().__init__()
        self.image_size, self.patch_size = pair(image_size), pair(patch_size)
        if any(i % p for i, p in zip(self.image_size, self.patch_size)):
            raise ShapeError(
                f"BEiTBackbone: image_size {self.image_size} is no multiple of patch_size {self.patch_size}. "
                "Choose an image size that is a whole number of patches."
            )
        if attn_head_dim is None and width % num_heads:
            raise ShapeError(
                f"BEiTBackbone: width {width} does not divide into {num_heads} heads. "
                "Choose a multiple of the number of heads, or give attn_head_dim."
            )
        if norm not in ("final", "pool", "none") or init not in ("finetune", "pretrain"):
            raise ValueError(
                f"BEiTBackbone: norm={norm!r}, init={init!r}; expected norm 'final', 'pool' or 'none' and "
                "init 'finetune' or 'pretrain'."
            )
        self.grid = (self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1])
        self.width, self.depth, self.num_heads = width, depth, num_heads
        self.init_family, self.recompute = init, recompute
        self._block_kwargs: dict[str, Any] = dict(
            mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, drop_rate=drop_rate, attn_drop_rate=attn_drop_rate,
            init_values=init_values, norm_eps=norm_eps, head_width=attn_head_dim,
            grid=self.grid if use_rel_pos_bias else None,
        )
        self.drop_path_rates = drop_path_rates(drop_path, depth)

        self.patch_embed = PatchEmbed(self.patch_size, in_chans, width)
        self.cls_token = self._token([1, 1, width])
        self.mask_token = self._token([1, 1, width]) if use_mask_token else None
        num_tokens = self.grid[0] * self.grid[1] + 1
        self.pos_embed: Any = self._token([1, num_tokens, width]) if use_abs_pos_emb else None
        self.pos_drop = Dropout(drop_rate)
        self.rel_pos_bias = RelativePositionBias(self.grid, num_heads) if use_shared_rel_pos_bias else None
        self.blocks = nn.LayerList([self._block(rate) for rate in self.drop_path_rates])
        self.norm = LayerNorm(width, epsilon=norm_eps) if norm == "final" else None
        self.fc_norm = LayerNorm(width, epsilon=norm_eps) if norm == "pool" else None
        self._fixed_grid = use_rel_pos_bias or use_shared_rel_pos_bias
        self._initialise()

    def forward(self, images: paddle.Tensor, mask: paddle.Tensor | None = None) -> paddle.Tensor:
        """Pooled features (B, D): normalised mean of the patches with norm="pool", else the class token."""
        tokens_BTD, _ = self.forward_tokens(images, mask)
        if self.fc_norm is not None:
            return self.fc_norm(tokens_BTD[:, 1:].mean(1))
        return self.normalise(tokens_BTD)[:, 0]

    def forward_tokens(self, images: paddle.Tensor, mask: paddle.Tensor | None = None,
                       taps: Sequence[int] = ()) -> tuple[paddle.Tensor, dict[int, paddle.Tensor]]:
        """Raw tokens (B, T, D) after the last block, and {i: raw output of block i} for every i in `taps`.

        `mask` (B, N) bool, True where a patch is replaced by the mask token.
        """
        unknown = [tap for tap in taps if not 0 <= tap < self.depth]
        if unknown:
            raise ShapeError(f"BEiTBackbone: taps {unknown} do not exist; blocks are 0 .. {self.depth - 1}.")
        x_BTD, bias = self.embed(images, mask), self.shared_bias()
        tapped = {}
        for i, block in enumerate(self.blocks):
            x_BTD = self.run_block(block, x_BTD, bias)
            if i in taps:
                tapped[i] = x_BTD
        return x_BTD, tapped

    def normalise(self, x: paddle.Tensor) -> paddle.Tensor:
        """Tokens (..., D) through the model's norm (`norm` or `fc_norm`; unchanged with norm="none")."""
        layer = self.norm if self.norm is not None else self.fc_norm
        return x if layer is None else layer(x)

    def patch_tokens(self, images: paddle.Tensor) -> paddle.Tensor:
        """Normalised patch tokens (B, N, D), row by row.  Source: official `return_patch_tokens=True`."""
        return self.normalise(self.forward_tokens(images)[0])[:, 1:]

    def last_attention(self, images: paddle.Tensor, mask: paddle.Tensor | None = None) -> paddle.Tensor:
        """Attention map (B, H, T, T) of the last block.  Source: official `get_last_selfattention`."""
        return self.attention(images, mask=mask)

    def attention(self, images: paddle.Tensor, block: int | None = None, *,
                  mask: paddle.Tensor | None = None) -> paddle.Tensor:
        """Attention map (B, H, T, T) of block `block`, counted from 1; None: of the last.

        Raises ShapeError for a block that is not there.
        """
        number = self.depth if block is None else block
        if not 1 <= number <= self.depth:
            raise ShapeError(f"block {number}: this model has the blocks 1 .. {self.depth}.")
        name = f"block{number - 1:02d}.norm1"
        with self.intermediates(name) as out:
            self.forward_tokens(images, mask)
        return self.blocks[number - 1].attn.probabilities(out[name], self.shared_bias())

    def intermediates(self, *names: str) -> AbstractContextManager[dict[str, paddle.Tensor]]:
        """Inside this context every forward pass of the model writes what its layers give into the dictionary.

            with model.intermediates("block*.sa", "pre_logits") as out:
                model(images)
            out["block03.sa"]  # (B, T, D)

        names: patterns as file names have them, default all.  For every block i from 00 on:
            embedding      tokens (B, T, D) that enter the first block
            blockXX.norm1  normalised tokens, what attention reads
            blockXX.sa     output of the attention, before layer scale and drop path
            blockXX.+sa    the sum after it
            blockXX.mlp    output of the MLP, before layer scale and drop path
            blockXX        the sum after it: the block's output
            pre_logits     output of `norm` (B, T, D) or `fc_norm` (pooled: B, D); without a norm, of the last block
        A model with more blocks or outputs says in `points` what they are called.
        A block that is listened to runs by its layers, on the CPU too: its values then differ by rounding from its fast
        form's.  A recomputed block gives tensors without gradient.  A later pass overwrites an earlier one.
        Raises ShapeError, before anything runs, for a pattern that no name fits.
        """
        return recorded(self.points(), names)

    def points(self) -> list[Point]:
        """Where the values of `intermediates` are taken."""
        last = next(layer for layer in (self.norm, self.fc_norm, self.blocks[-1]) if layer is not None)
        return [Point(self.blocks[0], "in", ("embedding",)), *points_in("block", self.blocks),
                Point(last, "out", ("pre_logits",))]

    def embed(self, images: paddle.Tensor, mask: paddle.Tensor | None = None) -> paddle.Tensor:
        """Tokens (B, T, D) that enter the first block."""
        x_BND = self.patch_embed(images)
        grid = (images.shape[2] // self.patch_size[0], images.shape[3] // self.patch_size[1])
        if self._fixed_grid and grid != self.grid:
            raise ShapeError(
                f"BEiTBackbone: images of {images.shape[2]} x {images.shape[3]} give {grid[0]} x {grid[1]} patches, "
                f"but the relative position bias was made for {self.image_size[0]} x {self.image_size[1]} "
                f"({self.grid[0]} x {self.grid[1]}). Resize the images, or build the model for that size (its "
                "image_size; a checkpoint's bias tables are resized with it)."
            )
        if mask is not None:
            x_BND = self._hide(x_BND, mask)
        # Not `expand` to x_BND.shape[0]: in a static graph that may be the number -1, which means "as it was", so 1.
        cls_B1D = self.cls_token.astype(x_BND.dtype) + paddle.zeros_like(x_BND[:, :1])
        x_BTD = paddle.concat([cls_B1D, x_BND], axis=1)
        if self.pos_embed is not None:
            x_BTD = x_BTD + self.position_table(grid)
        return self.pos_drop(x_BTD)

    def position_table(self, grid: tuple[int, int]) -> paddle.Tensor:
        """The absolute position table (1, T, D) for a grid of patches.

        Resized bicubically with torch's sampling scale (n + 0.1) / sqrt(N) when the number of patches differs
        (official modeling_finetune.py, interpolate_pos_encoding: an equal count keeps the table whatever the shape).
        """
        if grid[0] * grid[1] == self.grid[0] * self.grid[1]:
            return self.pos_embed
        patches_1Dhw = self.pos_embed[:, 1:].reshape([1, *self.grid, self.width]).transpose([0, 3, 1, 2])
        scale = tuple((new + 0.1) / old for new, old in zip(grid, self.grid))
        patches_1Dij = bicubic_resize(patches_1Dhw, grid, scale=scale)
        patches_1ND = patches_1Dij.transpose([0, 2, 3, 1]).reshape([1, -1, self.width])
        return paddle.concat([self.pos_embed[:, :1], patches_1ND], axis=1)

    def shared_bias(self) -> paddle.Tensor | None:
        """The bias (1, H, T, T) all blocks share, or None."""
        return None if self.rel_pos_bias is None else self.rel_pos_bias()

    def run_block(self, block: Block, x_BTD: paddle.Tensor, bias: paddle.Tensor | None,
                  query_index: paddle.Tensor | None = None) -> paddle.Tensor:
        """One block, recomputed in the backward pass where the model was built with `recompute`."""
        if self.recompute and self.training and paddle.is_grad_enabled():
            from paddle.distributed.fleet.utils import recompute
            return recompute(in_this_precision(block), x_BTD, bias, query_index)
        return block(x_BTD, bias, query_index)

    def run_blocks(self, blocks: Iterable[Block], x_BTD: paddle.Tensor, bias: paddle.Tensor | None,
                   query_index: paddle.Tensor | None = None) -> paddle.Tensor:
        """Blocks one after the other; `query_index` (B, Q): tokens whose output of the last one is needed."""
        blocks = list(blocks)
        for block in blocks[:-1]:
            x_BTD = self.run_block(block, x_BTD, bias)
        return self.run_block(blocks[-1], x_BTD, bias, query_index) if blocks else x_BTD

    def no_weight_decay(self) -> set[str]:
        """Names that never decay besides 1-D parameters (official `no_weight_decay`)."""
        return {"pos_embed", "cls_token"}

    def _hide(self, x_BND: paddle.Tensor, mask: paddle.Tensor) -> paddle.Tensor:
        if self.mask_token is None:
            raise ShapeError("BEiTBackbone: a mask was given, but the model has no mask token (use_mask_token=True).")
        if mask.shape != x_BND.shape[:2]:
            raise ShapeError(
                f"BEiTBackbone: the mask has shape {mask.shape}, the images have (batch, patches) "
                f"{x_BND.shape[:2]}. Make masks for a grid of {self.grid[0]} x {self.grid[1]}."
            )
        w_BN1 = mask.astype(x_BND.dtype).unsqueeze(-1)
        return x_BND * (1 - w_BN1) + self.mask_token.astype(x_BND.dtype) * w_BN1

    def _block(self, drop_path: float) -> Block:
        return Block(self.width, self.num_heads, drop_path=drop_path, **self._block_kwargs)

    def _token(self, shape: list[int]) -> paddle.Tensor:
        return self.create_parameter(shape, default_initializer=nn.initializer.Constant(0.0))

    def _initialise(self) -> None:
        limit = 0.02 if self.init_family == "pretrain" else 2.0
        kaiming_uniform_default(self.patch_embed.proj)
        if self.init_family == "pretrain":
            # Only the pretraining family re-initialises the patch convolution (goldens: init_stats).
            trunc_normal(self.patch_embed.proj.weight, limit=limit)
            self.patch_embed.proj.bias.set_value(paddle.zeros([self.width]))
        for token in (self.cls_token, self.mask_token, self.pos_embed):
            if token is not None:
                trunc_normal(token, limit=limit)
        init_linears(self.blocks, limit=limit)
        for i, block in enumerate(self.blocks):
            rescale_block(block, i + 1)


def points_in(prefix: str, blocks: Iterable[Block]) -> list[Point]:
    """Where `BEiTBackbone.intermediates` takes values in some blocks."""
    points: list[Point] = []
    for i, block in enumerate(blocks):
        name = f"{prefix}{i:02d}"
        points += [Point(block.norm1, "out", (f"{name}.norm1",)), Point(block.attn, "out", (f"{name}.sa",)),
                   Point(block.norm2, "in", (f"{name}.+sa",)), Point(block.mlp, "out", (f"{name}.mlp",)),
                   Point(block, "out", (name,))]
    return points


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Drop-path rate of every block: linspace(0, rate, depth).  Source: official modeling_finetune.py."""
    return [rate * i / (depth - 1) if depth > 1 else 0.0 for i in range(depth)]
