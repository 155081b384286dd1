# SPDX-License-Identifier: Apache-2.0
"""Which patches to hide: one callable per file, `mask(rng) -> bool (gh, gw)`, 1 = hidden."""

from __future__ import annotations

from .blockwise import BlockwiseMasking
from .random import RandomMasking

__all__ = ["BlockwiseMasking", "RandomMasking", "MASKINGS"]

#: What `mask.kind` may say; third parties add theirs by entry point `beitv2.masks`.
MASKINGS = {"blockwise": BlockwiseMasking, "random": RandomMasking}
