# SPDX-License-Identifier: Apache-2.0
"""Segmentors from their settings, and from their runs."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from beitv2_core.assembly import set_weights
from beitv2_core.assembly.kinds import kinds_trained_by
from beitv2_core.assembly.loaded_weights import read_weights_for
from beitv2_core.assembly.restore import read_checkpoint, settings_of
from beitv2_core.errors import CheckpointError, ConfigError
from beitv2_seg.assembly.data import class_names, with_known_classes
from beitv2_seg.config import SegmentConfig
from beitv2_seg.paddleseg.components import build_component

log = logging.getLogger("beitv2_seg")


class Segmentor(NamedTuple):
    """A trained model in eval mode, its settings and the names of its classes."""

    model: Any
    config: SegmentConfig
    classes: list[str]


def build_model(config: SegmentConfig, *, pretrained: bool = True) -> Any:
    """The segmentor of the settings; without `pretrained` its weights are always fresh."""
    spec = config.model.model_dump()
    if not pretrained:
        spec["backbone"]["pretrained"] = None
    return build_component(spec, "model")


def load_segmentor(source: str, config: SegmentConfig | None = None) -> Segmentor:
    """The trained segmentor of a run folder or .pdckpt, or of a .pdparams file together with its settings.

    Raises CheckpointError for a checkpoint of another kind, ConfigError for lone weights without settings.
    """
    found = read_checkpoint(source, wanted=kinds_trained_by("segment"), unknown=True)
    if found.config:
        kept = settings_of(found)
        if not isinstance(kept, SegmentConfig):
            raise CheckpointError(f"{found.path}: this is a {found.config.get('kind')!r} run; a run of `beitv2 segment "
                                  "train` was expected.")
        if config is not None and _architecture(config) != _architecture(kept):
            log.warning("%s: the model is the run's; the section model of --config differs and is ignored.",
                        found.path)
        config = kept if config is None else with_known_classes(config.model_copy(update={"model": kept.model}),
                                                                kept.classes)
    if config is None:
        raise ConfigError(f"{found.path}: weights without settings. Give --config, the YAML they were trained with.")
    model = build_model(config, pretrained=False)
    weights = found.weights
    known = found.model is not None and found.model.kind in kinds_trained_by("segment")
    if not found.config and not known:  # the weights of a head without a `Kind`
        weights = read_weights_for(model.state_dict(), found.path)
    set_weights(model, weights, str(found.path))
    model.eval()
    return Segmentor(model, config, class_names(config))


def _architecture(config: SegmentConfig) -> dict[str, Any]:
    """The section `model` without what says where weights come from."""
    model = config.model.model_dump()
    for key in ("pretrained", "pretrained_ema", "recompute"):
        model["backbone"].pop(key, None)
    return model
