# SPDX-License-Identifier: Apache-2.0
"""What a frozen network gives for fixed views, kept on the disk: the caches of the settings and what they depend on."""

from __future__ import annotations

from typing import Any, TypeVar, Union

from ..config import PretrainConfig, TokenizerConfig
from ..data.view_cache import ViewCache
from ..errors import ConfigError
from ..pixels.size import pair
from .restore import fingerprint

Asked = TypeVar("Asked")


def build_code_cache(config: PretrainConfig, tokenizer: Any, dataset: Any) -> ViewCache:
    """The cache of codes of the settings; its identity holds everything that the codes depend on."""
    data, asked = config.data, _asked(config.tokenizer.cache, "tokenizer.cache")
    identity = {
        "tokenizer": fingerprint(tokenizer), "grid": list(tokenizer.grid),
        "precision": _precision(config.tokenizer.amp), "runtime": "paddle",
        "token_image_size": list(pair(data.token_image_size or data.image_size)),
        **_of_views(config, dataset, asked.views, "token_interpolation", "color_jitter"),
    }
    rows, columns = tokenizer.grid
    return ViewCache.of_codes(asked.path, identity, rows=len(dataset) * asked.views, patches=rows * columns,
                              num_codes=tokenizer.num_codes)


def build_feature_cache(config: TokenizerConfig, teacher: Any, dataset: Any) -> ViewCache:
    """The cache of the teacher's features of the settings; its identity holds everything that they depend on."""
    asked = _asked(config.teacher.cache, "teacher.cache")
    identity = {
        "teacher": config.teacher.name, "weights": fingerprint(teacher), "options": config.teacher.options,
        "grid": list(teacher.grid), "input_size": list(teacher.input_size), **teacher.identity(),
        "precision": _precision(config.train.amp), "image_size": list(pair(config.data.image_size)),
        **_of_views(config, dataset, asked.views, "interpolation"),
    }
    rows, columns = teacher.grid
    return ViewCache.of_features(asked.path, identity, rows=len(dataset) * asked.views, patches=rows * columns,
                                 width=teacher.width, dtype=asked.dtype)


def _asked(cache: Asked | None, setting: str) -> Asked:
    if cache is None:
        raise ConfigError(f"{setting}: it is null; expected a path and the number of views. Set {setting}.path and "
                          f"{setting}.views.")
    return cache


def _precision(amp: str) -> str:
    return "f32" if amp == "off" else amp


def _of_views(config: Union[PretrainConfig, TokenizerConfig], dataset: Any, views: int,
              *settings: str) -> dict[str, Any]:
    """What fixed views depend on; settings: those of the section `data` beside the ones of every recipe."""
    data = config.data
    return {
        "seed": config.seed, "views": views, "images": len(dataset),
        "names": dataset.fingerprint() if hasattr(dataset, "fingerprint") else None,
        "draft": list(pair(data.image_size)) if data.draft else None,  # the larger view decides how much is decoded
        **data.model_dump(mode="json", include={"dataset", "crop_scale", "exif_orientation", "scene_size",
                                                "scene_digits", "scene_seed", *settings}),
    }
