# SPDX-License-Identifier: Apache-2.0
"""The sections a run's settings are made of; `schema.py` puts them together and checks how they fit.

Every model is frozen and refuses unknown keys. A field without a default has to be given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from ..datasets import SOURCES
from ..pixels.size import MAX_PIXELS, pair
from .unread import KIND_KEYS, unread_settings, without_unread

# name: (width, depth, heads); the same numbers as `models.backbone.SIZES`, which this room may not import.
SIZES: dict[str, tuple[int, int, int]] = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
if TYPE_CHECKING:  # mypy takes no Literal of computed values
    DatasetName = str
else:
    DatasetName = Literal[tuple(SOURCES)]
Pixels = Union[int, tuple[int, int]]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
OFF_IS_A_WORD = BeforeValidator(lambda value: "off" if value is False else value)  # YAML 1.1 reads a bare off as false
Amp = Annotated[Literal["off", "bf16", "fp16"], OFF_IS_A_WORD]
Sharding = Annotated[Literal["off", "stage1", "stage2"], OFF_IS_A_WORD]


class Section(BaseModel):
    """A group of settings: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def _refuse_unread(self, name: str) -> None:
        """Raise the error for a setting that was changed and that this section's kind does not read."""
        kind = getattr(self, KIND_KEYS[name])
        for key in unread_settings(name, kind):
            default = type(self).model_fields[key].get_default(call_default_factory=True)
            if getattr(self, key) != default:
                raise impossible(key, f"{getattr(self, key)!r} came; {KIND_KEYS[name]}: {kind} does not read it. Leave "
                                      f"it out (or set it back to {'null' if default is None else default})")


def positive_size(value: Optional[Pixels]) -> Optional[Pixels]:
    """A size in pixels, as validators take it; ValueError for one below 1."""
    if value is not None and min(pair(value)) < 1:
        raise ValueError(f"a size in pixels must be positive, {value} came")
    return value


def required(key: str, what: str) -> PydanticCustomError:
    """The error for a value that has no safe default; `load.py` turns it into one line with the command to type."""
    return PydanticCustomError("required_value", "{what}", {"key": key, "what": what})


def impossible(key: str, message: str) -> PydanticCustomError:
    """The error for settings that contradict each other, reported at `key` (dotted, from the section's own level)."""
    return PydanticCustomError("impossible", "{message}", {"key": key, "message": message})


class DataConfig(Section):
    """Where images come from and how they are cropped.

    Departs: `draft` decodes a JPEG smaller where its crop allows; the official code decodes every image whole.
    `exif_orientation` turns photographs; the official loader does not.
    """

    dataset: DatasetName = Field(description="; ".join(f"{name}: {one.help}" for name, one in SOURCES.items()))
    root: Optional[Union[str, list[str]]] = Field(
        default=None,
        description="; ".join(f"{one.root} (dataset: {name})" for name, one in SOURCES.items() if one.root),
    )
    shard_window: int = Field(
        default=4, gt=0, description="tar files whose images are mixed with each other (dataset: shards)"
    )
    list_file: Optional[str] = Field(
        default=None, description="text file naming the images, one a line, below data.root"
    )
    held_out: Optional[int] = Field(
        default=None, gt=0, description="images left out of training, chosen by their names, to measure on; null: none",
    )
    max_corrupt: float = Field(default=0.001, ge=0, le=1, description="share of undecodable files that stops the run")
    exif_orientation: bool = Field(
        default=False,
        description="turn photographs as their EXIF data say, in training and in every command that reads images for "
        "the run; false: pixels as they are stored, as the official loader",
    )
    max_pixels: int = Field(
        default=MAX_PIXELS, gt=0, description="most pixels of an image file (Pillow's limit against files that explode)"
    )
    size: Optional[int] = Field(default=None, gt=0, description="number of images (dataset: digit_scenes)")
    scene_size: Optional[int] = Field(
        default=None, gt=0, description="side in pixels of a drawn image; default image_size"
    )
    scene_digits: tuple[int, int] = Field(default=(1, 1), description="fewest and most digits in a drawn image")
    scene_seed: int = Field(default=0, description="seed of the drawn images, apart from the run's seed")
    image_size: Pixels = Field(description="pixels the model sees: one side, or [height, width]")
    token_image_size: Optional[Pixels] = Field(
        default=None, description="pixels the tokenizer sees in pretraining; default image_size"
    )
    crop_scale: tuple[float, float] = Field(
        default=(0.08, 1.0), description="area of the random crop, share of the image"
    )
    interpolation: Interpolation = Field(default="bicubic", description="resampling of the model's view")
    token_interpolation: Interpolation = Field(default="bicubic", description="resampling of the tokenizer's view")
    color_jitter: float = Field(default=0.0, ge=0, description="brightness, contrast and saturation jitter; 0 is none")
    draft: bool = Field(
        default=False,
        description="decode JPEG files 2, 4 or 8 times smaller where the crop still has the output's size: faster for "
        "large images, not the same pixels",
    )
    num_workers: int = Field(
        default=0, ge=0, description="processes that decode images; 0 decodes in the training process"
    )

    _positive_sizes = field_validator("image_size", "token_image_size")(positive_size)

    @model_validator(mode="before")
    @classmethod
    def _forget_unread(cls, values: Any) -> Any:
        return without_unread(values, "data")

    @model_validator(mode="after")
    def _source_is_complete(self) -> DataConfig:
        source = SOURCES[self.dataset]
        if not getattr(self, source.required[0]):
            raise required(*source.required)
        if isinstance(self.root, list) and not source.many:
            many = " or ".join(name for name, one in SOURCES.items() if one.many)
            raise impossible("root", f"a list of paths came, expected one (only dataset: {many} takes a list)")
        self._refuse_unread("data")
        for name in ("crop_scale", "scene_digits"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise impossible(name, f"[{low}, {high}] is not a range: expected 0 < first <= second")
        if self.crop_scale[1] > 1:
            raise impossible("crop_scale", f"{self.crop_scale[1]} is more than the whole image; expected at most 1")
        return self


class TrunkConfig(Section):
    """Size of a transformer: `size` names width, depth and heads; each can be overridden."""

    size: Optional[str] = Field(
        default=None, description="tiny, small, base, large or huge: sets width, depth, num_heads"
    )
    width: int = Field(gt=0, description="channels of a token")
    depth: int = Field(gt=0, description="number of blocks")
    num_heads: int = Field(gt=0, description="attention heads")
    mlp_ratio: float = Field(default=4.0, gt=0, description="hidden channels of the MLP, in units of width")
    qkv_bias: bool = Field(default=True, description="learn a bias for queries and values")
    drop_rate: float = Field(default=0.0, ge=0, lt=1, description="dropout after projections")
    attn_drop_rate: float = Field(default=0.0, ge=0, lt=1, description="dropout of attention weights")
    drop_path: float = Field(default=0.0, ge=0, lt=1, description="stochastic depth of the last block; grows linearly")
    init_values: Optional[float] = Field(
        default=None, gt=0, description="initial layer scale (gamma); null is no layer scale"
    )
    positions: Literal["absolute", "relative", "shared_relative", "none"] = Field(
        default="absolute",
        description="position scheme: a table added to tokens, a bias per block, one shared bias, none",
    )
    norm_eps: float = Field(default=1e-6, gt=0, description="epsilon of the layer norms")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_size(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("size") is None:
            return values
        name = values["size"]
        if name not in SIZES:
            raise impossible("size", f"{name!r} is not a size; known sizes: {', '.join(SIZES)}")
        width, depth, num_heads = SIZES[name]
        return {"width": width, "depth": depth, "num_heads": num_heads, **values}

    @model_validator(mode="after")
    def _heads_divide_width(self) -> TrunkConfig:
        if self.width % self.num_heads:
            raise impossible("num_heads", f"{self.num_heads} heads do not divide the width {self.width}")
        return self


class EncoderConfig(TrunkConfig):
    """A trunk that reads images."""

    patch_size: Pixels = Field(default=16, description="pixels of a patch: one side, or [height, width]")

    _positive_size = field_validator("patch_size")(positive_size)


class MimModelConfig(EncoderConfig):
    """The backbone that is pretrained, and its [CLS] aggregation head."""

    early_layers: Optional[int] = Field(
        default=None, gt=0, description="block whose patch tokens feed the [CLS] head; null is no such head"
    )
    head_layers: int = Field(default=2, gt=0, description="blocks of the [CLS] head")
    share_lm_head: bool = Field(default=True, description="both heads use one output layer")

    @model_validator(mode="after")
    def _head_starts_inside(self) -> MimModelConfig:
        if self.early_layers is not None and self.early_layers > self.depth:
            raise impossible(
                "early_layers",
                f"early_layers is {self.early_layers} but the backbone has {self.depth} blocks; "
                f"expected 1 to {self.depth}, or null for no [CLS] head",
            )
        return self


class QuantizerConfig(Section):
    """The codebook."""

    num_codes: int = Field(default=8192, gt=1, description="codes in the codebook")
    code_dim: int = Field(default=32, gt=0, description="channels of a code")
    decay: float = Field(default=0.99, gt=0, lt=1, description="EMA decay of the codebook")
    beta: float = Field(default=1.0, ge=0, description="weight of the commitment loss")
    kmeans_init: bool = Field(default=True, description="start the codebook from k-means of the first features")
    kmeans_iters: int = Field(default=10, gt=0, description="rounds of k-means")


class HealthConfig(Section):
    """Measures against codebook collapse. All off by default: then training is exactly the official one."""

    unquantized_steps: int = Field(default=0, ge=0, description="first steps without quantisation, before k-means")
    kmeans_batches: int = Field(default=1, gt=0, description="batches whose features k-means starts from")
    revive_after: Optional[int] = Field(
        default=None, gt=0, description="replace codes unused for this many steps; null is never"
    )


class MaskConfig(Section):
    """Which patches are hidden."""

    kind: str = Field(
        default="blockwise", description="blockwise, random, or a name from the entry points 'beitv2.masks'"
    )
    num_masked: int = Field(gt=0, description="hidden patches of each image, exactly")
    min_block: int = Field(default=16, gt=0, description="fewest patches in one rectangle")
    max_block: Optional[int] = Field(
        default=None, gt=0, description="most patches in one rectangle; default num_masked"
    )
    min_aspect: float = Field(default=0.3, gt=0, le=1, description="narrowest rectangle; the widest is 1 / min_aspect")
    options: dict[str, Any] = Field(default_factory=dict, description="passed to a third party's mask as they are")

    @model_validator(mode="before")
    @classmethod
    def _forget_unread(cls, values: Any) -> Any:
        return without_unread(values, "mask")

    @model_validator(mode="after")
    def _blocks_fit(self) -> MaskConfig:
        self._refuse_unread("mask")
        if self.kind == "blockwise":
            if self.min_block > self.num_masked:
                raise impossible("min_block", f"blocks of {self.min_block} patches, but only {self.num_masked} masked")
            if self.max_block is not None and self.max_block < self.min_block:
                raise impossible("max_block", f"{self.max_block} is less than min_block {self.min_block}")
        return self


class OptimConfig(Section):
    """The optimizer and its schedules, computed per step."""

    kind: Literal["adamw", "adam", "sgd"] = Field(default="adamw", description="optimizer")
    lr: float = Field(gt=0, description="peak learning rate")
    lr_batch: Optional[int] = Field(
        default=None,
        gt=0,
        description="total batch `lr` is given for: the peak is lr * total_batch / lr_batch; null: as is",
    )
    min_lr: float = Field(default=0.0, ge=0, description="learning rate at the end, never scaled")
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="Adam's decay rates")
    eps: float = Field(default=1e-8, gt=0, description="Adam's epsilon")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of sgd")
    weight_decay: float = Field(default=0.05, ge=0, description="weight decay at the start")
    weight_decay_end: Optional[float] = Field(
        default=None, ge=0, description="weight decay at the end; default: constant"
    )
    clip_norm: Optional[float] = Field(
        default=None, gt=0, description="largest global gradient norm; null is no clipping"
    )
    epochs: Optional[int] = Field(default=None, gt=0, description="length in passes over the data (or give steps)")
    steps: Optional[int] = Field(default=None, gt=0, description="length in optimizer steps (or give epochs)")
    warmup_epochs: Optional[int] = Field(
        default=None, ge=0, description="linear warm-up, in epochs (or give warmup_steps)"
    )
    warmup_steps: Optional[int] = Field(
        default=None, ge=0, description="linear warm-up, in steps (or give warmup_epochs)"
    )

    @model_validator(mode="after")
    def _length_is_clear(self) -> OptimConfig:
        if self.epochs is None and self.steps is None:
            raise required("epochs", "the length of the run, in epochs (or optim.steps)")
        for first, second in (("epochs", "steps"), ("warmup_epochs", "warmup_steps")):
            if getattr(self, first) is not None and getattr(self, second) is not None:
                raise impossible(first, f"both {first} and {second} are given; set one of them to null")
        for length, warmup in (("epochs", "warmup_epochs"), ("steps", "warmup_steps")):
            total, warm = getattr(self, length), getattr(self, warmup)
            if total is not None and warm is not None and warm > total:
                raise impossible(warmup, f"the warm-up of {warm} is longer than the run of {total} {length}")
        if self.betas[0] >= 1 or self.betas[1] >= 1 or min(self.betas) < 0:
            raise impossible("betas", f"{list(self.betas)}: each must be in [0, 1)")
        return self


class TrainConfig(Section):
    """Batches, precision, logging and checkpoints."""

    batch_size: int = Field(gt=0, description="images a process handles at once")
    total_batch: Optional[int] = Field(
        default=None,
        gt=0,
        description="images behind one update: batch_size x processes x accumulation; default: no accumulating",
    )
    amp: Amp = Field(default="off", description="mixed precision: fp16 on GPUs, bf16 also on CPUs that multiply it; "
                                                "refused elsewhere")
    sharding: Sharding = Field(
        default="off",
        description="divide the optimizer's state among the processes; stage2: the gradients too. Same updates",
    )
    recompute: bool = Field(
        default=False, description="recompute activations in the backward pass: less memory, more time"
    )
    other_data: bool = Field(
        default=False, description="a resumed run may go on with other images than it was started with"
    )
    log_every: int = Field(default=50, gt=0, description="steps between log lines")
    save_every: int = Field(default=1000, gt=0, description="steps between checkpoints")
    check_every: int = Field(
        default=100, ge=0, description="steps between comparisons of weights, moments and codebook, which must be the "
        "same to the bit in all processes; 0: never. Where they differ the run goes back to its last checkpoint"
    )
    verify_every: int = Field(
        default=0, ge=0, description="every so many steps one is computed twice and compared bit for bit "
        "(--verify-every), which finds errors of a processor or its memory during that step; 0: none"
    )
    keep_last: int = Field(default=3, gt=0, description="newest checkpoints kept")
    keep_every: Optional[int] = Field(
        default=None, gt=0, description="also keep checkpoints at multiples of this; null: none"
    )
    trackers: list[str] = Field(
        default_factory=list, description="where scalars go beside metrics.jsonl (and VisualDL where it is installed): "
        "tensorboard, wandb, mlflow, or names from the entry points 'beitv2.trackers'"
    )
