# SPDX-License-Identifier: Apache-2.0
"""What tells one set of images from another that has as many."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

#: files whose bytes are looked at, spread evenly: names alone do not tell 0001.png from 0001.png
SAMPLED = 64


def identity(dataset: Any) -> str | None:
    """SHA-256 of the names in order, of the labels, and of the bytes of some files; None for images without files.

    The folder they lie in does not count: images that were moved are the same.
    """
    if not hasattr(dataset, "fingerprint") or not hasattr(dataset, "content"):
        return None
    found = hashlib.sha256(dataset.fingerprint().encode())
    if dataset.labels is not None:
        found.update(np.asarray(dataset.labels, dtype=np.int64).tobytes())
    for index in np.unique(np.linspace(0, len(dataset) - 1, SAMPLED).astype(np.int64)):
        try:
            content = dataset.content(int(index))
        except OSError:  # what cannot be read is counted when it is its turn
            content = b""
        found.update(hashlib.sha256(content).digest())
    return found.hexdigest()
