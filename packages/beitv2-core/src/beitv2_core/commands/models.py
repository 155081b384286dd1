# SPDX-License-Identifier: Apache-2.0
"""`beitv2 models` and `beitv2 download`: published weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Optional

import typer

from ..errors import CheckpointError, ConfigError
from ..files.atomic import write_atomically
from ..weights.published import registry
from ..weights.published.registry import Number, PublishedModel


def models(
    kind: Optional[str] = typer.Option(None, help="only one kind, as the column KIND names it, for example tokenizer"),
    as_json: bool = typer.Option(False, "--json", help="as JSON, null where nothing is published"),
) -> None:
    """List the published weights: URL, hash, size, published accuracy with its source."""
    kinds = registry.published_kinds()
    if kind is not None and kind not in kinds:
        raise ConfigError(f"--kind {kind!r}: expected one of {', '.join(kinds)}.")
    chosen = [model for model in registry.published_models().values() if kind in (None, model.kind)]
    if as_json:
        typer.echo(json.dumps([model.as_dict() for model in chosen], indent=1))
        return
    sources: list[str] = []
    head = ("NAME", "KIND", "PUBLISHED BY THE AUTHORS", "MEASURED BY US", "SHA-256", "FILE SIZE")
    rows = [head, *(_row(model, sources) for model in chosen)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row, model in zip(rows, [None, *chosen]):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
        if model is not None:
            typer.echo(f"    {model.trained}\n    {model.url}")
    for number, source in enumerate(sources, 1):
        typer.echo(f"[{number}] {source}")
    measured = sum(bool(model.measured) for model in chosen)
    typer.echo(f"The numbers with a [source] are their authors' own. This project has measured {measured or 'none'} of "
               f"these {len(chosen)} files.")


def download(
    name: str = typer.Argument(..., help="a name that `beitv2 models` lists", show_default=False),
    output: Optional[Path] = typer.Option(None, "--output", "-o", help="file to write (default: in the cache folder, "
                                                                       "BEITV2_CACHE)"),
    convert: bool = typer.Option(True, "--convert/--no-convert", help="write our format (.safetensors), or keep the "
                                                                      "file as it was published"),
) -> None:
    """Download published weights, check the hash if one is published, convert them to our format.

    Files in the cache (`BEITV2_CACHE`) are not downloaded again.  `BEITV2_MIRROR=URL` names a mirror of
    the same paths.  Teachers that are read as they were published (DINOv2) are kept so.
    """
    from ..files.cache import cache_folder
    from ..weights.published.download import resolve_weights

    model = registry.find_model(name)
    path = resolve_weights(model.url)
    if not convert or model.as_published:
        _report(model, path if output is None else _copy(path, output / model.filename if output.is_dir() else output))
        return
    from ..conversion.convert import convert_file

    if output is not None and output.is_dir():
        output = output / f"{name}.safetensors"
    target = output or cache_folder() / f"{name}.safetensors"
    if output is not None or not target.exists() or target.stat().st_mtime < path.stat().st_mtime:
        convert_file(path, target, "ours", force=output is None)
    _report(model, target)


def _row(model: PublishedModel, sources: list[str]) -> tuple[str, ...]:
    digest = f"{model.sha256_prefix}... (first 8)" if model.sha256_prefix else "not published"
    if model.sha256:
        digest = f"{model.sha256[:8]}... (all 64)"
    size = f"{model.bytes / 1e6:.1f} MB" if model.bytes else "not published"
    return (model.name, model.kind, _numbers(model.published, sources) or "no number",
            _numbers(model.measured, sources) or "nothing", digest, size)


def _numbers(numbers: tuple[Number, ...], sources: list[str]) -> str:
    """"ImageNet-1k top-1 85.5 % [1]", with new sources added to the list."""
    texts = []
    for number in numbers:
        if number.source not in sources:
            sources.append(number.source)
        metric, _, unit = number.metric.rpartition(" ")
        texts.append(f"{metric} {number.value} {unit} [{sources.index(number.source) + 1}]")
    return ", ".join(texts)


def _report(model: PublishedModel, path: Path) -> None:
    typer.echo(f"{path}: {model.kind} {model.name}, {path.stat().st_size / 1e6:.1f} MB")


def _copy(path: Path, output: Path) -> Path:
    if output.exists() and output.samefile(path):
        return output
    try:
        with write_atomically(output) as temporary:
            shutil.copyfile(path, temporary)
    except OSError as error:
        raise CheckpointError(f"{output}: cannot be written: {error}. Choose another --output.") from None
    return output
