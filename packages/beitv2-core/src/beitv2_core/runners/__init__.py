# SPDX-License-Identifier: Apache-2.0
"""What runs an exported graph: a class for every runtime. Importing this costs none of them."""

from __future__ import annotations

from .choice import RUNTIMES, choose
from .runtime import PRECISIONS, Runtime

__all__ = ["PRECISIONS", "RUNTIMES", "Runtime", "choose"]
