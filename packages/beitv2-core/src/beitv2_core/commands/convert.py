# SPDX-License-Identifier: Apache-2.0
"""`beitv2 convert` and `beitv2 verify`: weights from one format into another, and the proof."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Optional

import typer

from ..errors import ConfigError

_SOURCE_SIZE = typer.Option(None, help="HEIGHT,WIDTH in pixels (or one number) the weights were made for, if the file "
                                       "does not tell: windows that are not square, no position terms")
_HEADS = typer.Option(None, min=1, help="attention heads, if the file does not tell (default: of the published model "
                                        "of that width)")
_EARLY = typer.Option(None, min=1, help="blocks before the [CLS] head (default: 9 of 12 and 21 of 24, for "
                                         "official files of base and large)")
_TAPS = typer.Option(None, help="the four blocks a segmenter taps, for example 3 5 7 11 (default: the published ones, "
                                "for official files of base and large)")
_SCALES = typer.Option(None, help="pool scales of a segmenter (default: 1,2,3,6 where there are four)")
_EMA = typer.Option(None, "--ema/--no-ema", help="take the averaged weights (model_ema, state_dict_ema, a teacher) or "
                                                 "the trained ones (default: trained before averaged, teacher "
                                                 "before student)")
_Taps = Optional[tuple[int, int, int, int]]


def convert(
    src: Path = typer.Argument(..., help="run folder, .pdckpt, weights file, or folder of transformers",
                               show_default=False),
    dst: Path = typer.Argument(..., help="file to write; a folder for huggingface", show_default=False),
    to: str = typer.Option("ours", help="ours (.safetensors), official (.pth), huggingface (folder), timm "
                                        "(.safetensors) or paddleclas (.pdparams)"),
    image_size: Optional[str] = typer.Option(None, help="HEIGHT,WIDTH in pixels (or one number) that the position "
                                                        "terms are fitted to"),
    backbone: bool = typer.Option(False, "--backbone", help="write the backbone alone, without heads and mask token"),
    force: bool = typer.Option(False, "--force", help="overwrite DST"),
    source_size: Optional[str] = _SOURCE_SIZE,
    num_heads: Optional[int] = _HEADS,
    early_layers: Optional[int] = _EARLY,
    out_indices: _Taps = _TAPS,
    pool_scales: Optional[str] = _SCALES,
    ema: Optional[bool] = _EMA,
    classes: Optional[Path] = typer.Option(None, help="text file of class names, one a line in the order of the "
                                                      "logits, or a run's classes.json (default: the source's)"),
) -> None:
    """Convert weights between formats; official to ours and back is the same bit for bit."""
    from ..conversion.convert import convert_file

    done = convert_file(src, dst, to, force=force, image_size=size_of(image_size, "--image-size"), backbone=backbone,
                        hints=hints_of(source_size, num_heads, early_layers, out_indices, pool_scales, ema),
                        classes=None if classes is None else _read_classes(classes))
    typer.echo(f"{src}: {done.taken}")
    more = f", {done.unmapped} more kept to be given back" if done.unmapped else ""
    more += f"; {done.left_out} that this format has not were left out" if done.left_out else ""
    more += (f"; {done.classes_left_out} class names, for which this format has no place, were left out"
             if done.classes_left_out else "")
    names = f", {done.classes} class names" if done.classes else ""
    typer.echo(f"{done.path}: {done.tensors} tensors{names}{more}")


def verify(
    ours: Path = typer.Argument(..., help="file that `beitv2 convert` wrote, or a run", show_default=False),
    against: Path = typer.Option(..., help="what it was converted from",
                                 show_default=False),
    tolerance: float = typer.Option(1e-4, min=0.0, help="largest absolute difference of outputs allowed against timm "
                                                        "and transformers"),
    source_size: Optional[str] = _SOURCE_SIZE,
    num_heads: Optional[int] = _HEADS,
    early_layers: Optional[int] = _EARLY,
    out_indices: _Taps = _TAPS,
    pool_scales: Optional[str] = _SCALES,
    ema: Optional[bool] = _EMA,
) -> None:
    """Compare a converted model with its source: tensors, and outputs on fixed images; exit code 1 if they differ."""
    from ..conversion.verify import verify_file

    hints = hints_of(source_size, num_heads, early_layers, out_indices, pool_scales, ema)
    verdict = verify_file(ours, against, tolerance=tolerance, hints=hints)
    typer.echo(f"{verdict.kind}; compared with: {verdict.reference}")
    for difference in verdict.differences:
        mark = "ok  " if difference.holds else "FAIL"
        typer.echo(f"{mark} {difference.largest:<10.3g} allowed {difference.limit:<10.3g} {difference.name}")
    if not verdict.holds:
        raise typer.Exit(1)


def size_of(text: Optional[str], option: str) -> Optional[tuple[int, int]]:
    """(height, width) of `224` or `224,448`; ConfigError for anything else."""
    if text is None:
        return None
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers, default=0) < 1:
        raise ConfigError(f"{option} {text}: expected a number of pixels, or HEIGHT,WIDTH.")
    return numbers[0], numbers[-1]


def hints_of(source_size: Optional[str], num_heads: Optional[int], early_layers: Optional[int], out_indices: _Taps,
             pool_scales: Optional[str], ema: Optional[bool]) -> Any:
    """What the flags say of a file; ConfigError for a flag that cannot be read."""
    from ..assembly.loaded_weights import Hints

    try:
        scales = None if pool_scales is None else [int(part) for part in pool_scales.replace(",", " ").split()]
    except ValueError:
        scales = []
    if scales is not None and (not scales or min(scales) < 1):
        raise ConfigError(f"--pool-scales {pool_scales}: expected numbers, for example 1,2,3,6.")
    return Hints(size_of(source_size, "--source-size"), num_heads, early_layers, out_indices, scales, ema)


def _read_classes(path: Path) -> list[str]:
    """Class names of a text file, one a line, or of a JSON list."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"--classes {path}: cannot be read: {error}. Give a UTF-8 text file with one name a line, or "
                          "a run's classes.json.") from None
    if not isinstance(names, list):
        raise ConfigError(f"--classes {path}: holds a {type(names).__name__}; a list of names was expected.")
    names = [str(name) for name in names]
    while names and not names[-1]:
        names.pop()
    return names
