# SPDX-License-Identifier: Apache-2.0
"""`beitv2 config`: the settings of a run, and where each value comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import typer
import yaml

from . import options


def config(
    path: Path = options.CONFIG,
    more: Optional[list[str]] = options.MORE,
    set_: Optional[list[str]] = options.SET,
) -> None:
    """Print every setting of a run as YAML, each with the file it comes from."""
    from ..config import explain_config

    overrides = options.all_overrides(set_, more)
    settings, sources, missing = explain_config(path, overrides)
    for line in yaml_lines(settings.resolved(), sources, missing):
        typer.echo(line)
    if missing:
        given = " ".join(f"{key}=..." for key in missing)
        typer.echo(f"note: {len(missing)} required value(s) are missing: --set {given}", err=True)


def yaml_lines(
    tree: Mapping[str, Any], sources: Mapping[str, str], missing: Sequence[str] = (), prefix: str = ""
) -> list[str]:
    """Settings as YAML that reads back the same, one value a line, its source as a comment."""
    from ..config.load import source_of

    lines: list[str] = []
    indent = "  " * prefix.count(".")
    for key, value in tree.items():
        dotted = prefix + key
        if isinstance(value, Mapping) and value:
            lines.append(f"{indent}{key}:")
            lines += yaml_lines(value, sources, missing, dotted + ".")
            continue
        text = yaml.safe_dump(value, default_flow_style=True, width=10_000).replace("\n...\n", "\n").strip()
        origin = source_of(dotted, dict(sources)) or "default"
        if origin == "default" and key in ("width", "depth", "num_heads") and prefix + "size" in sources:
            origin = f"{sources[prefix + 'size']} (size: {tree['size']})"
        if dotted in missing:
            text, origin = "", f"required: --set {dotted}=..."
        lines.append(f"{indent}{key}: {text}".ljust(48) + f"  # {origin}")
    return lines
