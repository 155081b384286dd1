# SPDX-License-Identifier: Apache-2.0
"""Export of segmentation runs for `beitv2 export` (entry point `beitv2.exporters`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from beitv2_core.config.sections import pair
from beitv2_core.errors import ConfigError
from beitv2_core.exporting import Exportable
from beitv2_core.exporting.sources import exportable_logits
from beitv2_seg.assembly import Segmentor, load_segmentor


def exportable_run(run: str, features: bool) -> Exportable:
    """The segmenter of a run (entry point `beitv2.exporters`); ConfigError for the features of one."""
    if features:
        raise ConfigError(f"{run}: --kind features is for pretraining and fine-tuning runs; this is a segmenter.")
    return exportable_of(load_segmentor(run))


def exportable_of(found: Segmentor) -> Exportable:
    """A loaded segmentor with the transforms and the test settings its images are read by."""
    size = pair(found.config.model.backbone.options().get("image_size", 512))
    reading = {"transforms": found.config.val_dataset.options().get("transforms", []),
               "test_config": found.config.test_config.model_dump(mode="json")}
    return exportable_segmentor(found.model, image_size=size, classes=found.classes, reading=reading)


def exportable_segmentor(model: Any, *, image_size: tuple[int, int], classes: Sequence[str],
                         reading: Mapping[str, Any] | None = None) -> Exportable:
    """A segmenter for `beitv2 export`: one window in, its logits out.

    image_size: (height, width) of a window in pixels, the one the position tables were made for.  classes: names by
    number.  reading: `transforms` and `test_config` of the YAML; images of any size are read by
    `beitv2_seg.reading.label_map`.
    """
    model.eval()
    return exportable_logits(model, kind="segmenter", classes=tuple(classes), image_size=image_size, crop_share=1.0,
                             upright=True, reading=reading)
