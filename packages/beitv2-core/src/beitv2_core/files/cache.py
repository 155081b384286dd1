# SPDX-License-Identifier: Apache-2.0
"""The folder for what can be fetched or computed again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The variable BEITV2_CACHE, else the system's cache folder for `beitv2`; it need not exist."""
    import pooch  # only commands that fetch or index need it

    return Path(os.environ.get("BEITV2_CACHE") or pooch.os_cache("beitv2")).expanduser()
