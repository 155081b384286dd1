# SPDX-License-Identifier: Apache-2.0
"""BEiT v2 segmentation on PaddlePaddle: backbone, UPerNet, sliding windows, PaddleSeg."""

from __future__ import annotations

from typing import Any

__version__ = "0.2.0"

#: the public functions, in `api`; __init__.pyi has the same names for type checkers
_PUBLIC = ("evaluate", "finetune", "predict")
__all__ = ["__version__", *_PUBLIC, "register"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'beitv2_seg' has no attribute {name!r}; public names: {', '.join(__all__)}")
    import beitv2_core  # noqa: F401  before Paddle: threads and the MKL path
    from beitv2_seg import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return list(__all__)



def register() -> list[str]:
    """Make the components known to PaddleSeg by name; see `beitv2_seg.paddleseg.adapter.register`."""
    import beitv2_core  # noqa: F401  before Paddle: threads and the MKL path
    from beitv2_seg.paddleseg.adapter import register as register_with_paddleseg

    return register_with_paddleseg()
