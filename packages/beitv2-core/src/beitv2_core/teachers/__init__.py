# SPDX-License-Identifier: Apache-2.0
"""Teachers: frozen networks (or plain filters) whose patch features the tokenizer learns to reconstruct.

A third party offers `NAME = "package.module:build"` in the entry-point group `beitv2.teachers`; `build` takes the
keywords weights, sha256, image_size, patch_size and its own options, and returns a `Teacher`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Callable

from beitv2_core import _entry_points
from beitv2_core.errors import ConfigError
from beitv2_core.teachers.base import Teacher
from beitv2_core.teachers.clip import CLIPTeacher, CLIPVisual, build_clip
from beitv2_core.teachers.dino import DINOTeacher, DINOVisionTransformer, build_dino
from beitv2_core.teachers.dinov2 import DINOV2, build_dinov2
from beitv2_core.teachers.dinov3 import DINOV3, build_dinov3
from beitv2_core.teachers.efficientnet_lite import EfficientNetLiteTeacher, build_efficientnet_lite0
from beitv2_core.teachers.eva_clip import EVA_CLIP, build_eva_clip
from beitv2_core.teachers.file import FileTeacher, build_file
from beitv2_core.teachers.hog import HOGTeacher, build_hog
from beitv2_core.teachers.siglip2 import SIGLIP2, build_siglip2
from beitv2_core.teachers.vit import TeacherViT, ViTTeacher

ENTRY_POINTS = "beitv2.teachers"
TEACHERS: dict[str, Callable[..., Teacher]] = {
    "clip": build_clip,
    "dino": build_dino,
    "dinov2": build_dinov2,
    "dinov3": build_dinov3,
    "efficientnet_lite0": build_efficientnet_lite0,
    "eva_clip": build_eva_clip,
    "file": build_file,
    "hog": build_hog,
    "siglip2": build_siglip2,
}
#: what the published weights of a teacher were trained with
LEARNT_FROM = {
    "clip": "its published weights were trained with pairs of image and text",
    "dino": "its published weights were trained with ImageNet-1k, without labels",
    "dinov2": "its published weights were trained with images of the web, without labels",
    "dinov3": "its published weights were trained with images of the web or of satellites, without labels",
    "efficientnet_lite0": "its published weights were trained with ImageNet-1k and its class labels: this is not "
                          "self-supervised",
    "eva_clip": "its published weights were trained with pairs of image and text",
    "hog": "a filter that learnt from nothing",
    "siglip2": "its published weights were trained with pairs of image and text",
}
#: published models whose sizes are read from their files
FAMILIES = {family.name: family for family in (DINOV2, DINOV3, EVA_CLIP, SIGLIP2)}
_COMMON = ("weights", "sha256", "image_size", "patch_size")

__all__ = [
    "ENTRY_POINTS", "FAMILIES", "LEARNT_FROM", "TEACHERS", "CLIPTeacher", "CLIPVisual", "DINOTeacher",
    "DINOVisionTransformer", "EfficientNetLiteTeacher", "FileTeacher", "HOGTeacher", "Teacher", "TeacherViT",
    "ViTTeacher", "build_teacher",
]


def build_teacher(name: str, *, weights: str | None = None, sha256: str | None = None,
                  image_size: int | Sequence[int] = 224, patch_size: int | Sequence[int] = 16,
                  **options: Any) -> Teacher:
    """The frozen teacher `name` for images of `image_size` and a tokenizer with patches of `patch_size` pixels.

    weights: path or URL (all but hog); sha256: hash they must have; options: the teacher's own settings.
    Raises ConfigError for an unknown name or option, WeightsError for missing or wrong weights, ShapeError where the
    image is no whole number of patches.  Our names come first: an entry point cannot replace them.
    """
    build = _entry_points.load(ENTRY_POINTS, name, TEACHERS, "teacher.name")
    _check_options(name, build, options)
    return build(weights=weights, sha256=sha256, image_size=image_size, patch_size=patch_size, **options)


def _check_options(name: str, build: Callable[..., Teacher], options: dict[str, Any]) -> None:
    parameters = inspect.signature(build).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    own = [key for key in parameters if key not in _COMMON]
    unknown = sorted(set(options) - set(own))
    if unknown:
        raise ConfigError(
            f"teacher {name!r}: unknown option {', '.join(unknown)}. Its options: {', '.join(own) or 'none'}."
        )
