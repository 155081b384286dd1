# SPDX-License-Identifier: Apache-2.0
"""Settings of fine-tuning and linear-probe runs; the values of the recipes are in `configs/cls/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Optional

from pydantic import Field, ValidationError, model_validator

from beitv2_core.config import RunConfig
from beitv2_core.config.schema import grid_of
from beitv2_core.config.sections import EncoderConfig, OptimConfig, Pixels, Section, impossible
from beitv2_core.errors import CheckpointError, ConfigError
from beitv2_core.pixels.size import pair

#: settings of the trunk that pretrained weights decide
TRUNK = {"width", "depth", "num_heads", "mlp_ratio", "qkv_bias", "patch_size", "init_values", "norm_eps", "positions"}


class ClassifierConfig(EncoderConfig):
    """The trunk and its classifier."""

    positions: Literal["absolute", "relative", "shared_relative", "none"] = Field(
        default="relative", description="position scheme; relative: a bias table in every block"
    )
    pooling: Literal["mean", "cls"] = Field(default="mean", description="mean of the patch tokens, or the class token")
    head_scale: float = Field(default=0.001, gt=0, description="factor of the fresh head's weights")
    num_classes: Optional[int] = Field(default=None, gt=1, description="classes; null takes them from the data")


class PretrainedConfig(Section):
    """Where the trunk comes from."""

    weights: Optional[str] = Field(
        description="pretraining run, .pdckpt or file of published weights; null is random weights"
    )
    sha256: Optional[str] = Field(default=None, pattern="^[0-9a-f]{64}$", description="hash a weights file must have")
    image_size: Optional[Pixels] = Field(
        default=None, description="pixels a lone weights file was pretrained with, where its tensors do not tell; a "
        "run knows its own"
    )
    ema: Optional[bool] = Field(
        default=None, description="true: the averaged weights of a file or run; false: those that are not; null: the "
        "trained ones where there are both, of student and teacher the teacher"
    )


class FinetuneOptimConfig(OptimConfig):
    """The optimizer of fine-tuning.

    Source: official run_class_finetuning.py, `--disable_weight_decay_on_rel_pos_bias`, which no other script has.
    """

    decay_rel_pos_bias: bool = Field(
        default=True, description="weight decay on every block's relative position bias table; false spares them"
    )


class AugmentConfig(Section):
    """Augmentation with timm's semantics."""

    flip: float = Field(default=0.5, ge=0, le=1, description="share of images mirrored left to right")
    policy: Optional[str] = Field(default="rand-m9-mstd0.5-inc1", description="RandAugment; null is none")
    erase_prob: float = Field(default=0.25, ge=0, le=1, description="share of images with a random box of noise")
    erase_count: int = Field(default=1, gt=0, description="most boxes in an image")
    mixup: float = Field(default=0.8, ge=0, description="alpha of mixup; 0 is off")
    cutmix: float = Field(default=1.0, ge=0, description="alpha of CutMix; 0 is off")
    mix_prob: float = Field(default=1.0, ge=0, le=1, description="share of batches that are mixed")
    switch_prob: float = Field(default=0.5, ge=0, le=1, description="share of CutMix where both are on")
    mix_mode: Literal["batch", "pair", "elem"] = Field(default="batch", description="what shares one mixing ratio")
    smoothing: float = Field(default=0.1, ge=0, lt=1, description="label smoothing")


class ValidationConfig(Section):
    """Images the model is measured on after each epoch."""

    root: Optional[str] = Field(
        default=None, description="folder of class folders, or tar files where data.root are; null: none "
        "(digit_scenes: test)"
    )
    list_file: Optional[str] = Field(default=None, description="text file with `path label` lines, below root")
    size: int = Field(default=1000, gt=0, description="test images of digit_scenes")
    crop_share: float = Field(default=0.875, gt=0, le=1, description="share of the resized short side that is kept")
    batch_size: int = Field(default=64, gt=0, description="images measured at once; does not change the result")
    every_epochs: int = Field(default=1, gt=0, description="epochs between two measurements")


class LabelledRunConfig(RunConfig):
    """Settings that all runs on labelled images have."""

    model: ClassifierConfig
    validation: ValidationConfig = ValidationConfig()

    @model_validator(mode="before")
    @classmethod
    def _trunk_of_the_pretrained(cls, values: Any) -> Any:
        """Complete the settings of the trunk from `pretrained.weights`; a setting that contradicts it is an error."""
        model, source = (values.get("model", {}), values.get("pretrained")) if isinstance(values, dict) else (0, 0)
        weights = source.get("weights") if isinstance(source, dict) else None
        if not isinstance(model, dict) or not isinstance(source, dict) or not isinstance(weights, str) \
                or TRUNK <= set(model):
            return values  # nothing to take; settings of a run are complete, and its pretrained weights may be gone
        if "://" in weights or not Path(weights).exists():
            if "size" in model or {"width", "depth", "num_heads"} <= set(model):
                return values
            raise impossible("pretrained.weights", f"{weights}: no such run folder, checkpoint or weights file here, "
                             "from which model.width, depth and num_heads are read. Make it (beitv2 pretrain CONFIG), "
                             "correct the path, or set model.size")
        from beitv2_core.assembly import architecture_of
        from beitv2_core.assembly.loaded_weights import Hints

        try:
            given = PretrainedConfig(**source)
        except ValidationError:  # the section itself reports it with its keys
            return values
        size = None if Path(weights).is_dir() or given.image_size is None else pair(given.image_size)
        try:
            trunk = architecture_of(weights, hints=Hints(size=size, ema=given.ema))
            return {**values, "model": trunk.fill(model, "model.")}
        except CheckpointError as error:
            raise impossible("pretrained.weights", str(error).rstrip(".")) from None
        except ConfigError as error:  # it begins with the setting
            key, _, message = str(error).partition(": ")
            raise impossible(key, message.rstrip(".")) from None

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches of one image."""
        return grid_of(self.data.image_size, self.model.patch_size)

    @model_validator(mode="after")
    def _whole_patches(self) -> LabelledRunConfig:
        grid_of(self.data.image_size, self.model.patch_size, "data.image_size")
        return self


class FinetuneConfig(LabelledRunConfig):
    """Everything that decides a fine-tuning run."""

    kind: Literal["finetune"] = Field(default="finetune", description="which command reads this file")
    pretrained: PretrainedConfig
    optim: FinetuneOptimConfig
    augment: AugmentConfig = AugmentConfig()
    layer_decay: float = Field(default=1.0, gt=0, le=1, description="factor of the rate from a layer to the one below")
    ema_decay: Optional[float] = Field(default=None, gt=0, lt=1, description="EMA of the weights; null is none")

    @model_validator(mode="after")
    def _fits(self) -> FinetuneConfig:
        if self.augment.mix_mode == "pair" and self.train.batch_size % 2:
            raise impossible("train.batch_size", f"{self.train.batch_size} is odd; augment.mix_mode 'pair' needs pairs")
        return self


class ProbeConfig(Section):
    """The linear classifiers: one for every combination of layer, feature and learning rate."""

    layers: Optional[tuple[int, ...]] = Field(
        default=None, description="blocks whose output is read, from 0; null: every block"
    )
    features: tuple[Literal["cls", "mean", "concat"], ...] = Field(
        default=("cls", "mean", "concat"), min_length=1,
        description="class token, mean of the patch tokens, or both one after the other"
    )
    rates: tuple[float, ...] = Field(default=(4e-3,), min_length=1, description="learning rates, at their peak")
    flip: float = Field(default=0.5, ge=0, le=1, description="share of images mirrored left to right")

    @model_validator(mode="after")
    def _once_each(self) -> ProbeConfig:
        for key in ("layers", "features", "rates"):
            values = getattr(self, key) or ()
            if len(set(values)) != len(values):
                raise impossible(key, f"{list(values)} names one twice")
        if min(self.rates) <= 0:
            raise impossible("rates", f"{list(self.rates)}; learning rates are above 0")
        return self


class LinearProbeConfig(LabelledRunConfig):
    """Everything that decides a linear evaluation; `optim.lr` is the unit the rates are expressed in."""

    kind: Literal["linear_probe"] = Field(default="linear_probe", description="which command reads this file")
    pretrained: PretrainedConfig
    probe: ProbeConfig = ProbeConfig()
