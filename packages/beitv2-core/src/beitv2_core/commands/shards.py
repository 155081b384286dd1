# SPDX-License-Identifier: Apache-2.0
"""`beitv2 make-shards`: a folder of images to tar files."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer


def make_shards(
    folder: Path = typer.Argument(..., help="images, nested or flat", show_default=False),
    out: Path = typer.Argument(..., help="folder for the tar files", show_default=False),
    per_shard: int = typer.Option(1000, "--per-shard", min=1, help="images in a tar file"),
    with_classes: bool = typer.Option(False, "--with-classes", help="write labels: the class folders below FOLDER"),
    list_file: Optional[Path] = typer.Option(None, "--list-file", help="text file naming the images, with labels"),
    name: str = typer.Option("train", "--name", help="first part of the file names"),
    seed: int = typer.Option(0, "--seed", min=0, help="seed of the order of the images"),
    in_order: bool = typer.Option(False, "--in-order", help="keep the folder's order instead of shuffling"),
    overwrite: bool = typer.Option(False, "--overwrite", help="replace tar files of that name"),
) -> None:
    """Write a folder of images as tar files for `data.dataset=shards`; the same folder gives the same bytes."""
    from ..data import ImageFolder
    from ..data.sources.shard_writer import write_shards

    images = ImageFolder(folder, list_file=list_file, with_classes=with_classes)
    files = -(-len(images) // per_shard)
    for done in write_shards(images, out, per_shard=per_shard, name=name, seed=None if in_order else seed,
                             overwrite=overwrite):
        typer.echo(f"{done} of {len(images)} images", err=True)
    kinds = f", {len(images.classes)} classes" if images.classes is not None else ""
    typer.echo(f"{out}: {len(images)} image(s) in {files} file(s) {name}-*.tar{kinds}. "
               f"Read them with data.dataset=shards data.root={out}")
