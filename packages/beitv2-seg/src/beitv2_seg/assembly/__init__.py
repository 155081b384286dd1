# SPDX-License-Identifier: Apache-2.0
"""What sees settings and parts alike: data sets, models and whole runs from a PaddleSeg YAML file."""

from beitv2_seg.assembly.data import build_dataset, class_names, image_transforms
from beitv2_seg.assembly.models import Segmentor, build_model, load_segmentor
from beitv2_seg.assembly.pretrained import with_pretrained_settings
from beitv2_seg.assembly.training import FREE_SETTINGS, build_segmentation, plan_accumulation

__all__ = [
    "FREE_SETTINGS",
    "Segmentor",
    "build_dataset",
    "build_model",
    "build_segmentation",
    "class_names",
    "image_transforms",
    "load_segmentor",
    "plan_accumulation",
    "with_pretrained_settings",
]
