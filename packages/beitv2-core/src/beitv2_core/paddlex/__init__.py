# SPDX-License-Identifier: Apache-2.0
"""Exported models in PaddleX 3.7: `inference.yml` beside the graph, and predictors under names of ours.

PaddleX makes a predictor of a folder with `inference.json`, `inference.pdiparams` and `inference.yml`, by a name out of
a fixed list.  `register()` adds names to that list in this process.  Importing this costs neither PaddleX nor Paddle.
"""

from __future__ import annotations

from .models import PaddleXModel, inference_settings, register
from .reading import as_exported, transform_ops

__all__ = ["PaddleXModel", "as_exported", "inference_settings", "register", "transform_ops"]
