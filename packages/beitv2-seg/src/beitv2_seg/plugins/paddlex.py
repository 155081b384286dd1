# SPDX-License-Identifier: Apache-2.0
"""Exported segmenters in PaddleX (entry point `beitv2.paddlex`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beitv2_core.data.sources.image_file import Reading
from beitv2_core.errors import ConfigError
from beitv2_core.exported_model import Exported, read_description
from beitv2_core.paddlex import PaddleXModel
from beitv2_core.paddlex.reading import ReadAsExported
from beitv2_seg.config import TestConfig
from beitv2_seg.reading.label_map import exported_transforms
from beitv2_seg.reading.predict import predict_image


def _settings(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Of PaddleX's own steps there is one, the scaling: windows are cut as `model.json` says."""
    return {"Deploy": {"transforms": [{"type": "Normalize", "mean": list(facts["mean"]), "std": list(facts["std"])}]}}


def _predictor() -> type:
    from paddlex.inference.models.semantic_segmentation.predictor import SegRunnerPredictor

    class BEiTv2Segmenter(SegRunnerPredictor):
        """PaddleX's segmenter: `pred` (1, H, W) of an image of any size, by the windows the model was exported with.

        Departs: PaddleX resizes an image to one size and the labels back; that is refused here.
        """

        def _build(self) -> tuple[dict[str, Any], Any]:
            self._refuse_size(self.target_size)
            known = read_description(self.model_dir)
            self._exported = Exported(self.model_dir, known, lambda images: self.runner(x=[images]))
            self._transforms = exported_transforms(self._exported)
            self._test = TestConfig(**(known.reading or {}).get("test_config", {}))
            before, after = super()._build()
            return {**before, "Read": ReadAsExported(Reading(upright=known.exif_orientation))}, after

        def process(self, batch_data: Any, target_size: Any = None) -> dict[str, Any]:
            """Label maps int32 (1, H, W) of the batch's images; ConfigError for a `target_size`."""
            self._refuse_size(target_size)
            images = self.preprocessors["Read"](imgs=batch_data.instances)
            found = [predict_image(self._exported, image, self._transforms, self._test)[None] for image in images]
            return {"input_path": batch_data.input_paths, "page_index": batch_data.page_indexes, "input_img": images,
                    "pred": found}

        def _refuse_size(self, target_size: Any) -> None:
            if target_size is not None:
                raise ConfigError(f"{self.model_dir}: target_size is {target_size}; windows of this model have one "
                                  "size, and images are read at their own. Leave target_size out.")

    return BEiTv2Segmenter


SEGMENTER = PaddleXModel("BEiTv2-segmenter", _settings, _predictor)
