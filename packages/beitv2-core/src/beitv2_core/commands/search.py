# SPDX-License-Identifier: Apache-2.0
"""`beitv2 search`: the images that are most similar to an image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

import typer


def search(
    image: Path = typer.Argument(..., help="image to look for", show_default=False),
    features: Path = typer.Option(..., "--in", "-i", help="file that `beitv2 embed` wrote (mean or cls)",
                                  show_default=False),
    count: int = typer.Option(10, "-k", min=1, help="images to show"),
    model: Optional[str] = typer.Option(None, "--model", "-m", help="where the model of the features lies, if not "
                                                                    "where it lay"),
    output: Optional[Path] = typer.Option(None, "--output", "-o", help="picture of what was found (.png)"),
) -> None:
    """Print the images of a file of features that are most similar to an image, and show them."""
    from ..data import decode
    from ..inference.embedding_file import read_embeddings
    from ..inference.search import model_of
    from ..inference.search import search as most_similar
    from ..viz.picture_rows import Shown, picture_rows

    file = read_embeddings(features)
    loaded = model_of(file, model)
    found = most_similar(file, loaded, image, count=count)
    typer.echo(f"{'cosine':>7}  image")
    for one in found:
        typer.echo(f"{one.cosine:7.4f}  {one.path}")
    if output is not None:
        shown = [Shown(loaded.open(image), "looked for")]
        for one in found:
            place = file.place(one.number)
            if os.path.exists(place):
                shown.append(Shown(decode(place, upright=loaded.reading.upright), f"{one.cosine:.3f}"))
        rows = [shown[start : start + 6] for start in range(0, len(shown), 6)]
        picture_rows(rows, output, title=f"most similar of {len(file.paths)} images")
        typer.echo(f"written: {output}")
