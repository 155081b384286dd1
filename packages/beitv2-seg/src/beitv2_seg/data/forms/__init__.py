# SPDX-License-Identifier: Apache-2.0
"""Segmentation data in the forms people have them: lists, folders, Cityscapes, VOC, COCO. Costs no Paddle to import."""

from beitv2_seg.data.forms.find import FORMS, find_samples
from beitv2_seg.data.forms.found import PARTS, FoundSamples
from beitv2_seg.data.forms.of_settings import FILE_KEYS, SPLIT, samples_of, write_split

__all__ = ["FILE_KEYS", "FORMS", "PARTS", "SPLIT", "FoundSamples", "find_samples", "samples_of", "write_split"]
