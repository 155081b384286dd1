# SPDX-License-Identifier: Apache-2.0
"""The models that can be exported from a run.

Other packages offer theirs by the entry points `beitv2.exporters`: the run's kind -> a function (run, features) that
returns an `Exportable`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import paddle

from .. import _entry_points
from ..assembly.held_out import data_of_run
from ..assembly.restore import build_file, load_mim, load_tokenizer, read_checkpoint, read_config
from ..data.views.transforms import IMAGENET_MEAN, IMAGENET_STD
from ..errors import ConfigError
from ..evaluation.codes import codes_and_gaps
from .graphs import FeaturesGraph, SingleGraph, TokenizerGraph

ENTRY_POINTS = "beitv2.exporters"


class Exportable(NamedTuple):
    """A model about to be exported.

    graph: layer, images (B, 3, H, W) after mean and std -> one tensor for every name in outputs.  live: the same
    outputs {name: array} by the model's own methods, not by the graph, which the export turns static; the export is
    compared with it.  facts: fields of `exported_model.Description`: kind, image_size, crop_share, outputs and others.
    """

    graph: Any
    live: Callable[[paddle.Tensor], Mapping[str, np.ndarray]]
    facts: dict[str, Any]


def find_exportable(run: str, *, kind: str | None = None, name: str | None = None) -> Exportable:
    """The model of a run folder, a .pdckpt, or a file of weights.

    kind: None for what the run trained, "features" for the backbone's features.  name: of a published tokenizer.
    Raises ConfigError for a kind the run does not hold, CheckpointError for what cannot be read.
    """
    config = read_config(run)
    trained = config.kind
    offered: dict[str, Callable[[str, bool], Exportable]] = {
        "tokenizer": lambda run, features: _tokenizer_of(run, features, name),
        "pretrain": _pretraining_of,
        "backbone": _backbone_of,
    }
    make = _entry_points.load(ENTRY_POINTS, trained, offered, f"{run}: what can be exported of a kind of run")
    found = make(run, kind == "features")
    if kind is not None and found.facts["kind"] != kind:
        others = () if trained == "tokenizer" else ("features",)
        possible = " or ".join(dict.fromkeys((found.facts["kind"], *others)))
        raise ConfigError(f"{run}: --kind {kind} is not possible; this {trained!r} run gives {possible}.")
    data = data_of_run(run)
    if data is not None:
        found.facts["exif_orientation"] = data.exif_orientation
    return found


def exportable_tokenizer(tokenizer: Any) -> Exportable:
    """A frozen VQKD: images in [0, 1] to codes, and their gaps (`exported_model.Exported.run`)."""

    def live(images: paddle.Tensor) -> dict[str, np.ndarray]:
        codes = tokenizer.tokenize(images).numpy()
        return {"codes": codes, "gaps": codes_and_gaps(tokenizer, images)[1].astype(np.float32)}

    facts = {"kind": "tokenizer", "image_size": tokenizer.image_size, "crop_share": 1.0, "grid": tokenizer.grid,
             "outputs": ("codes", "gaps"), "num_codes": tokenizer.num_codes}
    return Exportable(TokenizerGraph(tokenizer), live, facts)


def exportable_features(backbone: Any, *, crop_share: float = 0.875) -> Exportable:
    """The features of a backbone: patches (B, N, D), each normalised, and mean (B, D).

    mean: what a classifier with mean pooling reads, `fc_norm` of the patches' mean; of every other backbone the mean of
    the normalised patches.
    """

    def live(images: paddle.Tensor) -> dict[str, np.ndarray]:
        patches = backbone.patch_tokens(images)
        features = getattr(backbone, "features", backbone)
        return {"mean": (patches.mean(1) if backbone.fc_norm is None else features(images)).numpy(),
                "patches": patches.numpy()}

    facts = {"kind": "features", "image_size": backbone.image_size, "crop_share": crop_share, "grid": backbone.grid,
             "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "outputs": ("mean", "patches")}
    return Exportable(FeaturesGraph(backbone), live, facts)


def exportable_logits(model: Any, *, kind: str, classes: tuple[str, ...], image_size: tuple[int, int],
                      crop_share: float, upright: bool = False,
                      reading: Mapping[str, Any] | None = None) -> Exportable:
    """A model on ImageNet-normalised images whose first output is logits, classes on axis 1.

    upright: images are turned as their EXIF data say.  reading: how images of any size are read
    (`exported_model.Description.reading`).
    Raises ConfigError where there are not as many names as classes.
    """
    if len(classes) != model.num_classes:
        raise ConfigError(f"{len(classes)} class names for a {kind} of {model.num_classes} classes. Give one for each.")

    def live(images: paddle.Tensor) -> dict[str, np.ndarray]:
        out = model(images)
        return {"logits": (out[0] if isinstance(out, (list, tuple)) else out).numpy()}

    facts = {"kind": kind, "image_size": image_size, "crop_share": crop_share, "mean": IMAGENET_MEAN,
             "std": IMAGENET_STD, "outputs": ("logits",), "classes": classes, "exif_orientation": upright,
             "reading": None if reading is None else dict(reading)}
    return Exportable(SingleGraph(model), live, facts)


def _tokenizer_of(run: str, features: bool, name: str | None) -> Exportable:
    if features:
        raise ConfigError(f"{run}: --kind features is for pretraining and fine-tuning runs; this is a tokenizer.")
    return exportable_tokenizer(load_tokenizer(run, name=name))


def _pretraining_of(run: str, features: bool) -> Exportable:
    return exportable_features(load_mim(run)[0])


def _backbone_of(run: str, features: bool) -> Exportable:
    return exportable_features(build_file(read_checkpoint(run), ("backbone",)))
