# SPDX-License-Identifier: Apache-2.0
"""`beitv2 tokenize`: images to codes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Optional

import typer

from ..errors import ConfigError
from ..exported_model import Exported, is_exported, load_exported
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
    if output.suffix != ".npz":
        raise ConfigError(f"--output {output}: expected a name ending in .npz, for example codes.npz.")
    from ..evaluation.codes import encode_files, list_images

    paths = list_images([str(path) for path in images])
    model: Any
    if is_exported(tokenizer):
        computing: Any = contextlib.nullcontext()
        model = load_exported(tokenizer, kind="tokenizer", runtime=runtime, precision=precision)
        reading = model.reading
    else:
        computing = options.live_model(tokenizer, runtime=runtime, precision=precision)
        from ..assembly import load_tokenizer, reading_of_run

        model, reading = load_tokenizer(tokenizer, name=name), reading_of_run(tokenizer)
    if max_pixels is not None:
        reading = reading._replace(max_pixels=max_pixels)
    output.parent.mkdir(parents=True, exist_ok=True)
    done = 0
    with computing:
        for done in encode_files(
            model, paths, output, batch_size=batch_size, fingerprint=fingerprint(model), crop_share=crop_share,
            reading=reading, num_workers=options.workers(num_workers), precision=precision
        ):
            if len(paths) > done:
                typer.echo(f"{done} of {len(paths)} images", err=True)
    if len(paths) == 1:
        _print_grid(output)
    rows, columns = model.grid
    typer.echo(f"{output}: {done} image(s), {rows}x{columns} codes each, codebook of {model.num_codes}")


def fingerprint(model: Any) -> str:
    """SHA-256 of all weights (or of the exported files): tokenizers with one fingerprint give the same codes."""
    if isinstance(model, Exported):
        return model.fingerprint()
    from ..assembly.restore import fingerprint as of_weights

    return of_weights(model)


def _print_grid(output: Path) -> None:
    """Print one image's codes as numbers, on a terminal over one colour per code."""
    import numpy as np
    from rich.console import Console
    from rich.text import Text

    console = Console()
    codes = np.load(output)["codes"][0]
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
