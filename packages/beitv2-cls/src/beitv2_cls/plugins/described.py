# SPDX-License-Identifier: Apache-2.0
"""The classifier of a converted file (entry point `beitv2.kinds`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beitv2_cls.classifier import BEiTClassifier


def build(architecture: Mapping[str, Any]) -> BEiTClassifier:
    """The classifier of an architecture that `beitv2_core.weights.architecture` describes, freshly initialised."""
    return BEiTClassifier(**architecture)
