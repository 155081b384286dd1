# SPDX-License-Identifier: Apache-2.0
"""Settings: YAML outside, frozen pydantic models inside. Read by `build` and `cli`, by nobody else."""

from __future__ import annotations

from .load import Sources, config_kinds, load_config, parse_config
from .schema import SIZES, PretrainConfig, RunConfig, TokenizerConfig

__all__ = [
    "SIZES",
    "PretrainConfig",
    "RunConfig",
    "Sources",
    "TokenizerConfig",
    "config_kinds",
    "load_config",
    "parse_config",
]
