"""`beitv2 convert` and `beitv2 verify`: weights from one format into another, and the proof."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import typer

from ..errors import ConfigError

_SOURCE_SIZE = typer.Option(None, help="HEIGHT,WIDTH in pixels (or one number) the weights were made for, where they "
                                       "do not say: windows that are not square, no position terms")
_HEADS = typer.Option(None, min=1, help="attention heads, where weights do not say (default: width / 64)")
_EARLY = typer.Option(None, min=1, help="blocks before the [CLS] head (default: 9 of 12, 21 of 24)")


def convert(
    src: Path = typer.Argument(..., help="run folder, .pdckpt, weights file, or folder of transformers",
                               show_default=False),
    dst: Path = typer.Argument(..., help="file to write; a folder for huggingface", show_default=False),
    to: str = typer.Option("ours", help="ours (.safetensors), official (.pth), huggingface (folder), timm "
                                        "(.safetensors) or paddleclas (.pdparams)"),
    image_size: Optional[str] = typer.Option(None, help="HEIGHT,WIDTH in pixels (or one number) that the position "
                                                        "terms are fitted to"),
    backbone: bool = typer.Option(False, "--backbone", help="write the trunk alone: heads and mask token left out"),
    force: bool = typer.Option(False, "--force", help="overwrite DST"),
    source_size: Optional[str] = _SOURCE_SIZE,
    num_heads: Optional[int] = _HEADS,
    early_layers: Optional[int] = _EARLY,
) -> None:
    """Write weights in another format; from the official files to ours and back nothing is lost, bit for bit."""
    from ..assembly.convert import convert_file

    done = convert_file(src, dst, to, force=force, image_size=size_of(image_size, "--image-size"), backbone=backbone,
                        hints=_hints(source_size, num_heads, early_layers))
    typer.echo(f"{src}: {done.kind}, {done.origin}")
    more = f", {done.kept} more kept to be given back" if done.kept else ""
    more += f"; {done.left_out} that this format has not were left out" if done.left_out else ""
    typer.echo(f"{done.path}: {done.tensors} tensors{more}")


def verify(
    ours: Path = typer.Argument(..., help="file that `beitv2 convert` wrote, or a run", show_default=False),
    against: Path = typer.Option(..., help="what it was converted from, or a recorded fixture (.npz)",
                                 show_default=False),
    tolerance: float = typer.Option(1e-4, min=0.0, help="largest absolute difference of outputs allowed against timm "
                                                        "and transformers"),
    source_size: Optional[str] = _SOURCE_SIZE,
    num_heads: Optional[int] = _HEADS,
    early_layers: Optional[int] = _EARLY,
) -> None:
    """Compare a converted model with its source, tensors and outputs on fixed pictures; exit code 1 if it differs."""
    from ..assembly.verify import verify_file

    verdict = verify_file(ours, against, tolerance=tolerance, hints=_hints(source_size, num_heads, early_layers))
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


def _hints(source_size: Optional[str], num_heads: Optional[int], early_layers: Optional[int]) -> Any:
    from ..assembly.convert import Hints

    return Hints(size_of(source_size, "--source-size"), num_heads, early_layers)
