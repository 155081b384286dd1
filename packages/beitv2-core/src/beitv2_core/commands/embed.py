# SPDX-License-Identifier: Apache-2.0
"""`beitv2 embed`: images to features."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer

from . import options


def embed(
    images: list[Path] = typer.Argument(..., help="images, folders of images, or lists of them (.txt, .csv)",
                                        show_default=False),
    model: str = options.MODEL,
    output: Path = typer.Option(..., "--output", "-o", help="file to write: .parquet (pip install "
                                "'beitv2-core[parquet]'), .npz or .csv", show_default=False),
    what: str = typer.Option("mean", help="mean (of the patch tokens), cls (class token), patches, or codes (of a "
                                          "tokenizer)"),
    block: Optional[int] = typer.Option(None, min=1, help="raw tokens after this block, from 1; default: the last "
                                                          "block, as what follows the backbone reads it"),
    image_size: Optional[tuple[int, int]] = options.IMAGE_SIZE,
    crop_share: Optional[float] = options.CROP_SHARE,
    name: Optional[str] = options.NAME,
    batch_size: int = typer.Option(16, "--batch-size", "-b", min=1, help="images per batch"),
    max_pixels: Optional[int] = options.MAX_PIXELS,
    num_workers: Optional[int] = options.WORKERS,
    runtime: Optional[str] = options.RUNTIME,
    precision: str = options.PRECISION,
) -> None:
    """Write the features of any number of images to a file; the same command continues after an interruption."""
    from ..api.embed import write_features

    loaded, done = write_features(images, model, output, what=what, block=block, image_size=image_size,
                                  crop_share=crop_share, name=name, batch_size=batch_size, max_pixels=max_pixels,
                                  num_workers=num_workers, runtime=runtime, precision=precision)
    height, width = loaded.image_size
    typer.echo(f"{output}: {done} image(s) of {height}x{width}, {what} of {model}")
