# SPDX-License-Identifier: Apache-2.0
"""`beitv2 tokenize`: images to codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import typer

from . import options


def tokenize(
    images: list[Path] = typer.Argument(..., help="images, folders of images, or lists of them (.txt, .csv)",
                                        show_default=False),
    tokenizer: str = options.TOKENIZER,
    output: Path = typer.Option(..., "--output", "-o", help="file to write: codes, paths, num_codes, precision, "
                                                            "runtime (.npz)"),
    name: Optional[str] = options.NAME,
    batch_size: int = options.BATCH,
    crop_share: float = typer.Option(1.0, min=0.1, max=1.0, help="share of the short side that the central crop keeps"),
    max_pixels: Optional[int] = options.MAX_PIXELS,
    num_workers: Optional[int] = options.WORKERS,
    runtime: Optional[str] = options.RUNTIME,
    precision: str = options.PRECISION,
) -> None:
    """Write the codes of any number of images to a .npz file; the same command continues after an interruption."""
    from ..api.tokenize import tokenize as compute_codes

    found = compute_codes(images, tokenizer, output, name=name, batch_size=batch_size, crop_share=crop_share,
                          max_pixels=max_pixels, num_workers=num_workers, runtime=runtime, precision=precision)
    if len(found.codes) == 1:
        _print_grid(found.codes[0])
    rows, columns = found.codes.shape[1:]
    typer.echo(f"{output}: {len(found.codes)} image(s), {rows}x{columns} codes each, codebook of {found.num_codes}")


def _print_grid(codes: Any) -> None:
    """Print one image's codes (rows, columns) as numbers, on a terminal over one colour per code."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    width = len(str(int(codes.max())))
    for row in codes.tolist():
        line = Text()
        for code in row:
            hue = (code * 0.618034) % 1.0  # golden ratio: neighbouring numbers get distant colours
            line.append(f" {code:>{width}}", style=f"black on {_rgb(hue)}" if console.is_terminal else "")
        console.print(line, soft_wrap=True)


def _rgb(hue: float) -> str:
    import colorsys

    red, green, blue = colorsys.hsv_to_rgb(hue, 0.45, 0.95)
    return f"rgb({int(red * 255)},{int(green * 255)},{int(blue * 255)})"
