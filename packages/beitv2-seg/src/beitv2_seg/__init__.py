# SPDX-License-Identifier: Apache-2.0
"""BEiT v2 segmentation on PaddlePaddle: backbone, UPerNet, sliding windows, PaddleSeg."""

__version__ = "0.2.0"


def register() -> list[str]:
    """Make the components known to PaddleSeg by name; see `beitv2_seg.paddleseg.adapter.register`."""
    import beitv2_core  # noqa: F401  before Paddle: threads and the MKL path
    from beitv2_seg.paddleseg.adapter import register as register_with_paddleseg

    return register_with_paddleseg()
