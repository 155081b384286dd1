# SPDX-License-Identifier: Apache-2.0
"""BEiT v2 classification on PaddlePaddle: fine-tuning, evaluation, frozen features, PaddleClas."""

__version__ = "0.2.0"


def register() -> list[str]:
    """Make the models known to PaddleClas by name; see `beitv2_cls.adapter.register`."""
    import beitv2_core  # noqa: F401  before Paddle: threads and the MKL path
    from beitv2_cls.adapter import register as register_with_paddleclas

    return register_with_paddleclas()
