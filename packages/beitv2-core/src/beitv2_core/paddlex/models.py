# SPDX-License-Identifier: Apache-2.0
"""Which exported models PaddleX can run, and how it learns of them.

Other packages offer theirs by the entry points `beitv2.paddlex`: kind of exported model -> `PaddleXModel`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .. import _entry_points
from ..errors import MissingDependencyError
from ..exported_model import read_description
from .reading import as_exported, transform_ops

ENTRY_POINTS = "beitv2.paddlex"
#: the only engine our folders are for: `inference.json` by paddle.inference
ENGINE = "paddle_static"


class PaddleXModel(NamedTuple):
    """A kind of exported model as PaddleX knows it.

    name: the model name PaddleX makes a predictor by.  settings: of the fields of `exported_model.Description`, the
    sections of `inference.yml` besides Global.  predictor: gives a subclass of one of PaddleX's predictors; PaddleX is
    imported when it is called.
    """

    name: str
    settings: Callable[[Mapping[str, Any]], dict[str, Any]]
    predictor: Callable[[], type]


def inference_settings(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `inference.yml` for a model with these fields of `exported_model.Description`.

    Raises ConfigError for a kind of model that PaddleX has no predictor for.
    """
    model = _entry_points.load(ENTRY_POINTS, facts["kind"], OURS, "--format paddlex: a kind of model that PaddleX runs")
    return {"Global": {"model_name": model.name}, **model.settings(facts)}


def register() -> list[str]:
    """Make our predictors known to PaddleX in this process, and return their names; a second call changes nothing.

    They run without oneDNN, which PaddleX takes on processors: Paddle 3.3 cannot resize feature maps with it.
    Raises MissingDependencyError where PaddleX 3.7 or newer is not installed.
    """
    try:
        from paddlex.inference.models.bindings import register_predictor_binding_map, try_get_binding
        from paddlex.inference.models.runners.paddle_static.config import MKLDNN_BLOCKLIST
    except ImportError as error:
        raise MissingDependencyError(f"PaddleX 3.7 cannot be imported ({error}). Type: pip install "
                                     "'beitv2-core[paddlex]'") from None
    models = _entry_points.load_all(ENTRY_POINTS, OURS).values()
    for model in models:
        if try_get_binding(model.name, ENGINE) is None:
            register_predictor_binding_map(model.predictor(), {ENGINE: [model.name]})
            MKLDNN_BLOCKLIST.append(model.name)
    return [model.name for model in models]


def _features_settings(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"PreProcess": {"transform_ops": transform_ops(facts, crop=False)},
            "PostProcess": {"NormalizeFeatures": None}}


def _features_predictor() -> type:
    from paddlex.inference.models.image_feature.predictor import ImageFeatureRunnerPredictor

    class BEiTv2Features(ImageFeatureRunnerPredictor):
        """PaddleX's predictor of features: `feature` (D,) is the first output, the mean, divided by its length.

        Departs: PaddleX 3.7 gives every image the features of its whole batch, (B, D).
        """

        def _build(self) -> tuple[dict[str, Any], dict[str, Any]]:
            before, after = super()._build()
            unit = after["NormalizeFeatures"]
            return (as_exported(before, read_description(self.model_dir)),
                    {**after, "NormalizeFeatures": lambda preds: list(unit(preds))})

    return BEiTv2Features


OURS = {"features": PaddleXModel("BEiTv2-features", _features_settings, _features_predictor)}
