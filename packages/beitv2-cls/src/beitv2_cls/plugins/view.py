# SPDX-License-Identifier: Apache-2.0
"""The view of fine-tuning runs in `beitv2 serve`: the likeliest classes of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from beitv2_cls.assembly import crop_share_of, load_classifier
from beitv2_cls.classes import printable
from beitv2_cls.prediction import likeliest
from beitv2_core.assembly.held_out import reading_of_run
from beitv2_core.exported_model import Exported
from beitv2_core.serve.results import ClassesResult, ClassShare, image_url
from beitv2_core.serve.views import View, model_view

TOP = 5


def classifier_view(run: str) -> View:
    """The five likeliest classes, with the crop the run was validated with, as `beitv2 predict` (entry point
    `beitv2.views`).

    Raises CheckpointError for a run of another kind.
    """
    model, _, names = load_classifier(run)
    return _view(model, list(map(printable, names)), crop_share_of(model, run), reading_of_run(run).upright)


def exported_view(model: Exported) -> View:
    """The same of an exported classifier, as it was exported (entry point `beitv2.views`)."""
    known = model.description
    return _view(model, list(known.classes or ()), known.crop_share, model.reading.upright)


def _view(model: Any, names: Sequence[str], crop_share: float, upright: bool) -> View:
    def show(image: Image.Image) -> ClassesResult:
        seen, images = model_view(image, model.image_size, crop_share)
        found = likeliest(model, images, names, top=TOP)[0]
        return ClassesResult(seen=image_url(seen),
                             classes=[ClassShare(name=name, probability=min(share, 1.0)) for name, share in found])

    return View("classes", "Classes", f"The likeliest of {len(names)} classes.", show,
                upright=upright)
