# SPDX-License-Identifier: Apache-2.0
"""The visual tokenizer: images to codes, trained to reproduce a teacher's features (VQ-KD).

Shape suffixes: `layers/__init__.py`; codes have C channels, the teacher's features V.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn

from beitv2_core.errors import ConfigError, ShapeError
from beitv2_core.layers.fast.linear import Linear
from beitv2_core.layers.fast.products import mixed_precision
from beitv2_core.layers.init import init_linears
from beitv2_core.models.backbone import SIZES, BEiTBackbone
from beitv2_core.models.quantizer import NormEMAQuantizer, Quantized
from beitv2_core.pixels.imagenet import IMAGENET_MEAN, IMAGENET_STD

#: published tokenizers: decoder depth, teacher width
PUBLISHED = {
    "vqkd_encoder_base_decoder_1x768x12_clip": (1, 512),
    "vqkd_encoder_base_decoder_3x768x12_clip": (3, 512),
    "vqkd_encoder_base_decoder_1x768x12_dino": (1, 768),
}


class VQKD(nn.Layer):
    """Encoder, projection to the codebook, quantizer, decoder, projection to the teacher's features.

    images: (B, 3, h, w) float32 in [0, 1]; codes: (B, N) int64; features of the teacher: (B, N, V).
    `input_range` declares what the encoder was trained on: "unit" maps [0, 1] to [-1, 1], "imagenet" normalises by the
    ImageNet statistics.  `encoder` and `decoder` are trunks with norm="pool"; the decoder reads the code map (patch 1,
    code_dim channels).

    Source: paper section 2.2, Eq. 1 and Eq. 2; official modeling_vqkd.py, VQKD.
    Departs: the range is declared (official: guessed from the batch's largest value).  Departs: the teacher stands
    outside and hands in its features.
    """

    def __init__(self, encoder: BEiTBackbone, decoder: BEiTBackbone, *, num_codes: int, code_dim: int,
                 teacher_width: int, decay: float = 0.99, beta: float = 1.0, kmeans_init: bool = True,
                 kmeans_iters: int = 10, input_range: str = "unit"):
        super().__init__()
        if input_range not in ("unit", "imagenet"):
            raise ConfigError(f"VQKD: input_range {input_range!r} is not known. Known: 'unit', 'imagenet'.")
        if encoder.grid != decoder.grid:
            raise ShapeError(
                f"VQKD: the encoder gives {encoder.grid[0]} x {encoder.grid[1]} patches, the decoder reads "
                f"{decoder.grid[0]} x {decoder.grid[1]}. Build the decoder for the encoder's grid."
            )
        self.input_range, self.teacher_width = input_range, teacher_width
        self.encoder, self.decoder = encoder, decoder
        self.quantize = NormEMAQuantizer(num_codes, code_dim, decay=decay, beta=beta, kmeans_init=kmeans_init,
                                         kmeans_iters=kmeans_iters)
        self.encode_task_layer = _projection(encoder.width, code_dim)
        self.decode_task_layer = _projection(decoder.width, teacher_width)

    @property
    def num_codes(self) -> int:
        """Size of the codebook."""
        return self.quantize.num_codes

    @property
    def code_dim(self) -> int:
        """Width of a code."""
        return self.quantize.code_dim

    @property
    def grid(self) -> tuple[int, int]:
        """Codes per image, (rows, columns)."""
        return self.encoder.grid

    @property
    def image_size(self) -> tuple[int, int]:
        """Image size (height, width) in pixels."""
        return self.encoder.image_size

    def preprocess(self, images: paddle.Tensor) -> paddle.Tensor:
        """Images in [0, 1] as the encoder reads them.  Source: official modeling_vqkd.py, pre_process."""
        if self.input_range == "unit":
            return images * 255.0 / 127.5 - 1.0
        mean_1C11, std_1C11 = (paddle.to_tensor(v).reshape([1, 3, 1, 1]) for v in (IMAGENET_MEAN, IMAGENET_STD))
        return (images - mean_1C11) / std_1C11

    def features(self, images: paddle.Tensor) -> paddle.Tensor:
        """Projected patch features (B, N, C) before normalisation, float32 under any mixed precision."""
        tokens_BND = self.encoder.patch_tokens(self.preprocess(images))
        with mixed_precision("off"):
            return self.encode_task_layer(tokens_BND.astype("float32"))

    def forward(self, images: paddle.Tensor, target_BNV: paddle.Tensor,
                quantized: bool = True) -> dict[str, paddle.Tensor]:
        """Losses of a batch against the teacher's features (B, N, V).

        Returns scalars loss = rec_loss + quant_loss, and codes (B, N), features (B, N, C; unit length, no gradient).
        quantized=False decodes the normalised features themselves (quant_loss 0, codes absent).
        Raises ShapeError for a target of another shape.
        """
        expected = [images.shape[0], self.grid[0] * self.grid[1], self.teacher_width]
        if list(target_BNV.shape) != expected:
            raise ShapeError(
                f"VQKD: the teacher's features have shape {list(target_BNV.shape)}, these images need {expected} "
                "(images, patches, teacher_width). Check the teacher's grid and width against the tokenizer's."
            )
        h_BNC = self.features(images)
        out = {"features": nn.functional.normalize(h_BNC.detach(), axis=-1)}
        if quantized:
            q: Quantized = self.quantize(h_BNC)
            rec = self.reconstruction_loss(self._decode_map(q.z_q), target_BNV)
            return {"loss": q.loss + rec, "rec_loss": rec, "quant_loss": q.loss, "codes": q.codes, **out}
        rec = self.reconstruction_loss(self._decode_map(nn.functional.normalize(h_BNC, axis=-1)), target_BNV)
        return {"loss": rec, "rec_loss": rec, "quant_loss": paddle.zeros([]), **out}

    def drop_decoder(self) -> VQKD:
        """Delete the decoder to free memory; returns self.  Afterwards only `tokenize` and `lookup` work."""
        del self.decoder, self.decode_task_layer
        return self

    @paddle.no_grad()
    def tokenize(self, images: paddle.Tensor, amp: str = "off") -> paddle.Tensor:
        """Codes (B, N) int64 of images (B, 3, h, w) in [0, 1], row by row; changes no state in any mode.

        amp: "off", or "bf16" or "fp16" for the encoder's blocks; what follows them is float32.
        Departs: mixed precision, where asked for, gives some patches another code.
        """
        with mixed_precision(amp):
            h_BNC = self.features(images)
        with mixed_precision("off"):
            z_BNC = nn.functional.normalize(h_BNC, axis=-1)
            codes_S = self.quantize.nearest_codes(z_BNC.reshape([-1, self.code_dim]))
        return codes_S.reshape(z_BNC.shape[:2])

    def lookup(self, codes: paddle.Tensor) -> paddle.Tensor:
        """Codebook vectors (..., C) of codes (...)."""
        return self.quantize.lookup(codes)

    def decode(self, codes: paddle.Tensor) -> paddle.Tensor:
        """Teacher-space features (B, N, V) of codes (B, N).

        Raises ShapeError unless there is a code for every patch of the grid.
        """
        rows, columns = self.grid
        if codes.ndim != 2 or codes.shape[1] != rows * columns:
            raise ShapeError(
                f"VQKD.decode: codes have shape {list(codes.shape)}; expected (images, {rows * columns}), the grid "
                f"of {rows} x {columns} row by row."
            )
        return self._decode_map(self.lookup(codes))

    @staticmethod
    def reconstruction_loss(o_BNV: paddle.Tensor, t_BNV: paddle.Tensor) -> paddle.Tensor:
        """Mean of 1 - cos(o, t) over the patches; norms are divided out plainly (official calculate_rec_loss)."""
        o_BNV, t_BNV = o_BNV.astype("float32"), t_BNV.astype("float32")
        o_BNV = o_BNV / paddle.norm(o_BNV, axis=-1, keepdim=True)
        t_BNV = t_BNV / paddle.norm(t_BNV, axis=-1, keepdim=True)
        return (1 - (t_BNV * o_BNV).sum(-1)).mean()

    def no_weight_decay(self) -> set[str]:
        """Class tokens and position tables of both trunks (official `no_weight_decay`)."""
        return {f"{part}.{name}" for part in ("encoder", "decoder") for name in ("cls_token", "pos_embed")}

    def _decode_map(self, z_BNC: paddle.Tensor) -> paddle.Tensor:
        rows, columns = self.grid
        map_BChw = z_BNC.transpose([0, 2, 1]).reshape([-1, self.code_dim, rows, columns])
        return self.decode_task_layer(self.decoder.patch_tokens(map_BChw))


def _projection(width: int, out: int) -> nn.Sequential:
    layers = nn.Sequential(Linear(width, width), nn.Tanh(), Linear(width, out))
    init_linears(layers, limit=2.0)
    return layers


def build_published(name: str, **changes: Any) -> VQKD:
    """One of the published tokenizers with fresh weights (224 px, 8192 codes of 32); `changes` go to `VQKD`.

    Raises ConfigError for an unknown name.  Source: official modeling_vqkd.py, the three factories of that name.
    """
    if name not in PUBLISHED:
        raise ConfigError(f"tokenizer {name!r} is not known. Known: {', '.join(PUBLISHED)}.")
    depth, teacher_width = PUBLISHED[name]
    encoder = BEiTBackbone(**SIZES["base"], use_abs_pos_emb=True, norm="pool")
    decoder = BEiTBackbone(image_size=14, patch_size=1, in_chans=32, width=768, depth=depth, num_heads=12,
                           use_abs_pos_emb=True, norm="pool")
    return VQKD(encoder, decoder, **{"num_codes": 8192, "code_dim": 32, "teacher_width": teacher_width, **changes})
