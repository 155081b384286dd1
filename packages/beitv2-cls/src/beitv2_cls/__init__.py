# SPDX-License-Identifier: Apache-2.0
"""BEiT v2 classification on PaddlePaddle: fine-tuning, evaluation, frozen features, PaddleClas."""

from __future__ import annotations

from typing import Any

__version__ = "0.2.0"

#: the public functions, in `api`; __init__.pyi has the same names for type checkers
_PUBLIC = ("evaluate", "finetune", "predict")
__all__ = ["__version__", *_PUBLIC, "register"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'beitv2_cls' has no attribute {name!r}; public names: {', '.join(__all__)}")
    import beitv2_core  # noqa: F401  before Paddle: threads and the MKL path
    from beitv2_cls import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return list(__all__)



def register() -> list[str]:
    """Make the models known to PaddleClas by name; see `beitv2_cls.adapter.register`."""
    import beitv2_core  # noqa: F401  before Paddle: threads and the MKL path
    from beitv2_cls.adapter import register as register_with_paddleclas

    return register_with_paddleclas()
