# SPDX-License-Identifier: Apache-2.0
"""Trained models as files that run without our code: a static graph (Paddle) or ONNX, compared with the model."""

from __future__ import annotations

from .quantize import Calibration
from .sources import Exportable, exportable_features, exportable_tokenizer, find_exportable
from .writer import TOLERANCE, export_model

__all__ = ["TOLERANCE", "Calibration", "Exportable", "export_model", "exportable_features", "exportable_tokenizer",
           "find_exportable"]
