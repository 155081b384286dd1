# SPDX-License-Identifier: Apache-2.0
"""The sections of networks that a run reads and does not train: a tokenizer's teacher, a pretraining's tokenizer."""

from __future__ import annotations

from typing import Any, Literal, Optional

from pydantic import Field

from .sections import Amp, Section


class TeacherCacheConfig(Section):
    """The teacher's features kept on the disk, so that it reads a view once.

    Departs: every image has `views` fixed crops and flips that come round again; the official code draws new ones in
    every epoch. float32 features are those that the teacher gives for one image at a time, bit for bit.
    """

    path: str = Field(description="folder of the features; made where it is missing, shared by all processes")
    views: int = Field(gt=0, description="fixed views of an image; epoch e shows view e mod views")
    dtype: Literal["float32", "float16"] = Field(
        default="float32", description="type on the disk; float16 halves it, and rounds what the tokenizer learns from"
    )


class TeacherConfig(Section):
    """The frozen network whose features the tokenizer learns to reconstruct."""

    name: str = Field(
        description="clip, dino, dinov2, dinov3, efficientnet_lite0, eva_clip, file (any network as an ONNX file or "
        "Paddle graph), hog, siglip2, or a name from the entry points 'beitv2.teachers'"
    )
    weights: Optional[str] = Field(
        default=None, description="path or URL of the weights, or of the graph (file); null: those of an installed "
        "package (efficientnet_lite0)"
    )
    sha256: Optional[str] = Field(default=None, pattern="^[0-9a-f]{64}$", description="hash the weights must have")
    options: dict[str, Any] = Field(
        default_factory=dict, description="passed to the teacher as they are; docs/teachers.md lists each one's"
    )
    cache: Optional[TeacherCacheConfig] = Field(default=None, description="features kept on the disk; null: none")


class CodeCacheConfig(Section):
    """Codes kept on the disk, so that a view is tokenized once.

    Departs: every image has `views` fixed crops, flips and colours that come round again; the official code draws new
    ones in every epoch. Masks are drawn anew all the same.
    """

    path: str = Field(description="folder of the codes; made where it is missing, shared by all processes")
    views: int = Field(gt=0, description="fixed views of an image; epoch e shows view e mod views")


class TokenizerSourceConfig(Section):
    """The trained tokenizer whose codes are predicted."""

    weights: str = Field(description="a tokenizer run folder, a .pdckpt checkpoint, or a file of published weights")
    name: Optional[str] = Field(
        default=None, description="architecture of a lone weights file, e.g. vqkd_encoder_base_decoder_3x768x12_clip"
    )
    sha256: Optional[str] = Field(default=None, pattern="^[0-9a-f]{64}$", description="hash a weights file must have")
    num_codes: Optional[int] = Field(
        default=None, gt=1, description="expected number of codes; null takes what is there"
    )
    code_dim: Optional[int] = Field(
        default=None, gt=0, description="expected channels of a code; null takes what is there"
    )
    batch_size: Optional[int] = Field(
        default=None, gt=0, description="images the tokenizer reads at once; null: the whole batch"
    )
    amp: Amp = Field(
        default="off",
        description="mixed precision of the tokenizer's encoder, where train.amp is possible; not the official codes",
    )
    cache: Optional[CodeCacheConfig] = Field(default=None, description="codes kept on the disk; null: none")
