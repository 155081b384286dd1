# SPDX-License-Identifier: Apache-2.0
"""Segmentation data in the forms people have them: lists, folders, Cityscapes, VOC, COCO. Costs no Paddle to import."""

from beitv2_seg.data.forms.find import FORMS, find_samples
from beitv2_seg.data.forms.found import PARTS, FoundSamples

__all__ = ["FORMS", "PARTS", "FoundSamples", "find_samples"]
