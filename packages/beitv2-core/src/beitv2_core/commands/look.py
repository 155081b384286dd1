# SPDX-License-Identifier: Apache-2.0
"""`beitv2 look`: pictures of the patch features of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import typer

from ..errors import ConfigError
from . import options


def look(
    images: list[Path] = typer.Argument(..., help="images, folders of images, or lists of them (.txt, .csv)",
                                        show_default=False),
    model: str = options.MODEL,
    output: Path = typer.Option(..., "--output", "-o", help="folder of the pictures: components.png, similarity.png, "
                                                            "attention.png"),
    patch: Optional[tuple[int, int]] = typer.Option(
        None, "--patch", metavar="ROW COLUMN", help="patch that the others are compared with, counted from 1; default: "
                                                    "the central one"
    ),
    at: Optional[tuple[float, float]] = typer.Option(
        None, "--at", metavar="X Y", help="the same by a point of the image file, in pixels from its left and top"
    ),
    across: bool = typer.Option(False, "--across", help="compare the patches of all images with the first image's"),
    foreground: bool = typer.Option(
        False, "--foreground", help="colour only one side of the first component: the one that is rarer at the borders "
                                    "of the images"
    ),
    block: Optional[int] = typer.Option(None, "--block", min=1, help="features and attention of this block, from 1; "
                                                                     "default: the last"),
    image_size: Optional[tuple[int, int]] = options.IMAGE_SIZE,
    crop_share: Optional[float] = options.CROP_SHARE,
    limit: int = typer.Option(16, min=1, help="most images in a picture; of more, so many are taken evenly"),
    name: Optional[str] = options.NAME,
    max_pixels: Optional[int] = options.MAX_PIXELS,
    runtime: Optional[str] = options.RUNTIME,
    precision: str = options.PRECISION,
) -> None:
    """Draw principal components of patch features as colours, the similarity to a patch, and attention."""
    if patch is not None and at is not None:
        raise ConfigError("--patch and --at both choose the patch. Leave one out.")
    from ..data import ImageFiles, spread
    from ..evaluation.codes import list_images
    from ..inference.loaded import load_model
    from ..viz.attention import attention_maps
    from ..viz.features import component_colours, feature_components, patch_similarity, similarity_maps

    paths = list_images([str(path) for path in images])
    loaded = load_model(model, name=name, runtime=runtime, precision=precision, image_size=image_size)
    if crop_share is not None:
        loaded.cut_to(crop_share)
    loaded.check("patches", block)
    reading = loaded.reading if max_pixels is None else loaded.reading._replace(max_pixels=max_pixels)
    dataset = spread(ImageFiles(paths, reading), limit)
    if len(dataset) < len(paths):
        typer.echo(f"{len(dataset)} of {len(paths)} images are drawn (--limit {limit}).")
    files = [dataset.load(i) for i in range(len(dataset))]
    pixels = loaded.preprocess([file.image for file in files])
    patches = [_patch(loaded, patch) if at is None else _patch_at(loaded, file, at) for file in files]
    features = loaded.features(pixels, what="patches", block=block).reshape(len(files), *loaded.grid, -1)
    similarity = patch_similarity(features, patches, across=across)
    components = component_colours(features, foreground=foreground)

    drawn = [output / "components.png", output / "similarity.png"]
    feature_components(pixels, components, drawn[0])
    similarity_maps(pixels, similarity, patches, drawn[1], across=across)
    if loaded.exported:
        typer.echo(f"{model}: an exported model gives no attention, so it is not drawn. Give the run to see it.")
    else:
        drawn.append(output / "attention.png")
        attention_maps(pixels, loaded.attention(pixels, block=block), drawn[-1], block=block)
    for path in drawn:
        typer.echo(f"written: {path}")


def _patch(loaded: Any, patch: Optional[tuple[int, int]]) -> tuple[int, int]:
    """(row, column) from 0 of a patch given from 1, or of the central one; ConfigError outside of the grid."""
    rows, columns = loaded.grid
    if patch is None:
        return rows // 2, columns // 2
    if not (1 <= patch[0] <= rows and 1 <= patch[1] <= columns):
        raise ConfigError(f"--patch {patch[0]} {patch[1]}: an image has {rows} rows and {columns} columns of patches. "
                          f"Give numbers from 1 1 to {rows} {columns}.")
    return patch[0] - 1, patch[1] - 1


def _patch_at(loaded: Any, file: Any, at: tuple[float, float]) -> tuple[int, int]:
    """(row, column) from 0 of the patch under a point of a file's image; ConfigError outside of what the model sees."""
    from ..data.views.transforms import EvalCrop

    left, top, right, bottom = EvalCrop(loaded.image_size, loaded.crop_share).region(file.image.size)
    if not (left <= at[0] < right and top <= at[1] < bottom):
        width, height = file.image.size
        raise ConfigError(f"--at {at[0]:g} {at[1]:g}: of {file.path} ({width} x {height} pixels) the model sees x from "
                          f"{left:.0f} to {right:.0f} and y from {top:.0f} to {bottom:.0f}. Give a point there.")
    rows, columns = loaded.grid
    return int((at[1] - top) / (bottom - top) * rows), int((at[0] - left) / (right - left) * columns)
