# SPDX-License-Identifier: Apache-2.0
"""Data sets, transforms, masks and loaders of the settings."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, Union

from .. import _entry_points
from ..config import PretrainConfig, TokenizerConfig
from ..config.sections import DataConfig, MaskConfig
from ..data import Loader, MimTransform, Reading, ResumableSampler, TokenizerTransform
from ..data.sources.held_out import keep_part
from ..data.sources.sample import Asked
from ..datasets import SOURCES
from ..engine import distributed
from ..errors import ConfigError
from ..masking import MASKINGS

log = logging.getLogger("beitv2_core")
AnyConfig = Union[TokenizerConfig, PretrainConfig]


def reading_of(data: DataConfig) -> Reading:
    """How a run of these settings reads image files, in training and in every command."""
    return Reading(upright=data.exif_orientation, max_pixels=data.max_pixels)


def build_dataset(
    data: DataConfig, *, split: str = "train", report: Path | None = None, size: int | None = None,
    with_classes: bool = False, classes: Sequence[str] | None = None, setting: str = "data.root",
    list_setting: str = "data.list_file"
) -> Any:
    """The images of the settings; `split` ("train", "test") and `size` choose where there is a split.

    With `data.held_out`, "train" is without those images and "test" is these.

    classes: the names that labels are numbers of; setting, list_setting: what the user gave folder and list by.
    Raises ConfigError where images without a split are asked for one or for a size: they are what they are.
    """
    source = SOURCES[data.dataset]
    if data.root and not source.root:
        log.warning("data.root: %s is not read: data.dataset is %s, which draws its images. Add data.dataset=folder, "
                    "or leave data.root out.", data.root, data.dataset)
    parted = data.held_out is not None
    if not source.split and (size is not None or (split != "train" and not parted)):
        asked = f"split {split!r}" if split != "train" else f"{size} images"
        raise ConfigError(f"{setting}: {data.root}: {asked} asked of {data.dataset!r}, which is read whole and has no "
                          "split. Give a folder of its own for each purpose, or train with data.held_out.")
    asked_of_it = Asked(split, size, report, with_classes, classes, reading_of(data), setting, list_setting)
    dataset = source.opens().of_settings(data, asked_of_it)
    if data.held_out is not None:
        keep_part(dataset, data.held_out, held_out=split == "test")
    return dataset


def build_masking(mask: MaskConfig, grid: tuple[int, int]) -> Callable[..., Any]:
    """The mask generator of the settings; third parties offer theirs by the entry points 'beitv2.masks'."""
    if mask.kind == "blockwise":
        return MASKINGS["blockwise"](grid, mask.num_masked, mask.min_block, mask.max_block, mask.min_aspect)
    if mask.kind in MASKINGS:
        return MASKINGS[mask.kind](grid, mask.num_masked)
    return _entry_points.load("beitv2.masks", mask.kind, MASKINGS, "mask.kind")(grid, mask.num_masked, **mask.options)


def build_transform(config: AnyConfig) -> Any:
    """The augmentation of the recipe: one view for the tokenizer, two views and a mask for pretraining."""
    data = config.data
    if isinstance(config, TokenizerConfig):
        return TokenizerTransform(data.image_size, scale=data.crop_scale, interpolation=data.interpolation,
                                  draft=data.draft,
                                  views=config.teacher.cache.views if config.teacher.cache is not None else None)
    return MimTransform(
        data.image_size,
        build_masking(config.mask, config.grid),
        token_size=data.token_image_size,
        scale=data.crop_scale,
        interpolation=data.interpolation,
        token_interpolation=data.token_interpolation,
        jitter=data.color_jitter or None,
        draft=data.draft,
        views=config.tokenizer.cache.views if config.tokenizer.cache is not None else None,
    )


def build_loader(dataset: Any, transform: Any, *, batch_size: int, accumulate: int, seed: int, num_workers: int,
                 **names: str) -> Loader:
    """Endless, resumable batches for this process; `accumulate` of them are one update.

    names: what errors call the settings, as `ResumableSampler` takes them.
    """
    sampler = ResumableSampler(len(dataset), batch_size=batch_size, rank=distributed.rank(),
                               world_size=distributed.world_size(), accumulate=accumulate, seed=seed,
                               order=getattr(dataset, "order", None), **names)
    return Loader(dataset, transform, sampler, num_workers=num_workers, seed=seed)
