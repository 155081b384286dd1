# SPDX-License-Identifier: Apache-2.0
"""Export of fine-tuning runs for `beitv2 export` (entry point `beitv2.exporters`)."""

from __future__ import annotations

from beitv2_cls.assembly import crop_share_of, load_classifier
from beitv2_cls.classes import printable
from beitv2_core.config.schema import pair
from beitv2_core.exporting import Exportable, exportable_features
from beitv2_core.exporting.sources import exportable_logits


def exportable_run(run: str, features: bool) -> Exportable:
    """The classifier of a run with its class names and crop, or the features of its backbone."""
    model, _, classes = load_classifier(run)
    crop_share = crop_share_of(model, run)
    if features:
        return exportable_features(model, crop_share=crop_share)
    return exportable_logits(model, kind="classifier", classes=tuple(map(printable, classes)),
                             image_size=pair(model.image_size), crop_share=crop_share)
