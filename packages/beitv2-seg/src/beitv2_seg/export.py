"""Segmenters as files that run without our code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from beitv2_core.deployed import Description
from beitv2_core.export import Exportable, export_model
from beitv2_core.export.sources import exportable_logits
from beitv2_seg.segmentor import BEiTv2UPerNet


def exportable_segmentor(model: BEiTv2UPerNet, *, image_size: tuple[int, int], classes: Sequence[str]) -> Exportable:
    """A segmenter as `beitv2 export` wants it (entry point `beitv2.exporters`): one window in, its logits out.

    image_size: (height, width) of a window in pixels, the one the position tables were made for.  classes: names by
    number.  Pictures of another size are read by sliding windows: `beitv2_seg.deployed`.
    """
    model.eval()
    return exportable_logits(model, kind="segmenter", classes=tuple(classes), image_size=image_size, crop_share=1.0)


def export_segmentor(model: BEiTv2UPerNet, *, image_size: tuple[int, int], classes: Sequence[str], path: str | Path,
                     form: str) -> Description:
    """Write `model` to the new folder `path` and return its description: see `beitv2_core.export.export_model`.

    form: "paddle" or "onnx".  Output: logits (B, classes, height, width).
    """
    return export_model(exportable_segmentor(model, image_size=image_size, classes=classes), path, form=form)
