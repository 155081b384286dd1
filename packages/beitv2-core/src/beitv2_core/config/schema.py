# SPDX-License-Identifier: Apache-2.0
"""What a tokenizer run and a pretraining run consist of, and how their sections must fit together.

The sections themselves are in `sections.py`. Numbers of the published recipes are in `configs/`, not here.
"""

from __future__ import annotations

from typing import Any, Literal, Union

from pydantic import Field, model_validator

from ..datasets import SOURCES
from .frozen import TeacherConfig, TokenizerSourceConfig
from .monitor import MonitorConfig
from .sections import (
    SIZES,
    DataConfig,
    EncoderConfig,
    HealthConfig,
    MaskConfig,
    MimModelConfig,
    OptimConfig,
    Pixels,
    QuantizerConfig,
    Section,
    TrainConfig,
    TrunkConfig,
    impossible,
    pair,
)

__all__ = ["SIZES", "PretrainConfig", "RunConfig", "TokenizerConfig", "grid_of", "pair"]


def grid_of(image_size: Pixels, patch_size: Pixels, key: str = "image_size") -> tuple[int, int]:
    """(rows, columns) of patches in an image; a size that patches do not tile is an error naming both numbers."""
    (height, width), (patch_h, patch_w) = pair(image_size), pair(patch_size)
    if height % patch_h or width % patch_w:
        raise impossible(
            key, f"an image of {height}x{width} pixels is not a whole number of {patch_h}x{patch_w} patches"
        )
    return height // patch_h, width // patch_w


class RunConfig(Section):
    """What every training run has."""

    seed: int = Field(default=0, ge=0, description="seed of weights, order, crops, masks and every other draw")
    output: str = Field(description="run folder: checkpoints, metrics, figures")
    data: DataConfig
    optim: OptimConfig
    train: TrainConfig

    @model_validator(mode="after")
    def _views_are_read(self) -> RunConfig:
        if "tokenizer" not in type(self).model_fields:
            for key, unset in (("token_image_size", None), ("token_interpolation", "bicubic")):
                if getattr(self.data, key) != unset:
                    raise impossible(f"data.{key}", "only pretraining has a second view, for its tokenizer; expected "
                                     f"{'null' if unset is None else unset}")
        return self

    def resolved(self) -> dict[str, Any]:
        """All settings as plain values, every default written out; `parse_config` reads it back unchanged."""
        return self.model_dump(mode="json")


class TokenizerConfig(RunConfig):
    """Everything that decides a tokenizer run (VQ-KD, stage 1 of the paper)."""

    kind: Literal["tokenizer"] = Field(default="tokenizer", description="which command reads this file")
    encoder: EncoderConfig
    decoder: TrunkConfig
    quantizer: QuantizerConfig = QuantizerConfig()
    health: HealthConfig = HealthConfig()
    teacher: TeacherConfig

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of codes of one image."""
        return grid_of(self.data.image_size, self.encoder.patch_size)

    @model_validator(mode="after")
    def _fits(self) -> TokenizerConfig:
        grid_of(self.data.image_size, self.encoder.patch_size, "data.image_size")
        if self.data.color_jitter:
            raise impossible("data.color_jitter", "the tokenizer's images keep their colours; expected 0")
        steps, free = self.optim.steps, self.health.unquantized_steps
        if steps is not None and free >= steps:
            raise impossible("health.unquantized_steps", f"{free} of {steps} steps leave none for the codebook")
        if free and not self.quantizer.kmeans_init:
            raise impossible("quantizer.kmeans_init", "health.unquantized_steps ends with k-means; set this to true")
        return self


class PretrainConfig(RunConfig):
    """Everything that decides a pretraining run (masked image modeling, stage 2 of the paper)."""

    kind: Literal["pretrain"] = Field(default="pretrain", description="which command reads this file")
    model: MimModelConfig
    tokenizer: TokenizerSourceConfig
    mask: MaskConfig
    monitor: MonitorConfig = MonitorConfig()

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches of one image."""
        return grid_of(self.data.image_size, self.model.patch_size)

    @model_validator(mode="after")
    def _fits(self) -> PretrainConfig:
        rows, columns = grid_of(self.data.image_size, self.model.patch_size, "data.image_size")
        if self.mask.num_masked >= rows * columns:
            raise impossible(
                "mask.num_masked",
                f"{self.mask.num_masked} masked of {rows * columns} patches ({rows}x{columns}); "
                f"expected 1 to {rows * columns - 1}",
            )
        source = SOURCES[self.data.dataset]
        if self.monitor.every is not None and not source.split and self.data.held_out is None:
            raise impossible("data.held_out", f"null came, but monitor.every is {self.monitor.every}: it measures on "
                             f"images that are left out of training. Set data.held_out (monitor.images is "
                             f"{self.monitor.images}), or monitor.every=null")
        return self


AnyConfig = Union[TokenizerConfig, PretrainConfig]
