# SPDX-License-Identifier: Apache-2.0
"""BEiT v2 on PaddlePaddle: tokenizer, backbone and pretraining.

Importing this page costs no Paddle import; it sets the environment Paddle should find (see `runtime`).
"""

from __future__ import annotations

import importlib
from typing import Any

from beitv2_core import runtime

__version__ = "0.2.0"

#: public name -> module that holds it (module:name where it has another name there); __init__.pyi has the same for type
#: checkers
_PUBLIC = {
    "BEiTBackbone": "beitv2_core.models.backbone",
    "BEiTForMaskedImageModeling": "beitv2_core.models.mim",
    "NormEMAQuantizer": "beitv2_core.models.quantizer",
    "VQKD": "beitv2_core.models.vqkd",
    "build_teacher": "beitv2_core.teachers",
    "embed": "beitv2_core.api.embed",
    "evaluate": "beitv2_core.api.evaluate",
    "export": "beitv2_core.api.export",
    "load": "beitv2_core.inference.loaded:load_model",
    "load_config": "beitv2_core.config.load",
    "pretrain": "beitv2_core.api.train",
    "tokenize": "beitv2_core.api.tokenize",
}
#: what works, in part at least, where no Paddle is: settings and exported ONNX models
_WITHOUT_PADDLE = {"embed", "load", "load_config", "tokenize"}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'beitv2_core' has no attribute {name!r}; public names: {', '.join(__all__)}")
    if name not in _WITHOUT_PADDLE:
        runtime.require_paddle()
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
    return list(__all__)
