# SPDX-License-Identifier: Apache-2.0
"""Settings: YAML outside, frozen pydantic models inside. Read by `assembly` and the commands, by no lower room."""

from __future__ import annotations

from .load import ExplainedConfig, Sources, config_kinds, explain_config, load_config, parse_config
from .schema import SIZES, PretrainConfig, RunConfig, TokenizerConfig
from .two_stages import STAGES, TwoStagesConfig

__all__ = [
    "SIZES",
    "STAGES",
    "ExplainedConfig",
    "PretrainConfig",
    "RunConfig",
    "Sources",
    "TokenizerConfig",
    "TwoStagesConfig",
    "config_kinds",
    "explain_config",
    "load_config",
    "parse_config",
]
