# SPDX-License-Identifier: Apache-2.0
"""Mean and standard deviation of the colours CLIP was trained on (red, green, blue), of values in [0, 1]."""

from __future__ import annotations

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
