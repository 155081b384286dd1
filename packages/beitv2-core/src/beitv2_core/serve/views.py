# SPDX-License-Identifier: Apache-2.0
"""Views: a view takes an image and returns a result to show. Other packages offer theirs by entry points.

Entry point `beitv2.views`: the name is a kind of run, the object a function (run folder or checkpoint) -> View; or
`exported_` and a kind of exported models, then it is a function (Exported) -> View.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any, Callable, NamedTuple

import numpy as np
from PIL import Image

from .. import _entry_points
from ..data import EvalTransform, Sample
from ..data.views.transforms import to_unit_floats
from .results import CodeSeen, CodesResult, Result, hex_colour, image_url, png_url

log = logging.getLogger("beitv2_core")
ENTRY_POINTS = "beitv2.views"


class View(NamedTuple):
    """One result that a run can show for an image.

    name: word in the address (a-z, 0-9, -); title and about: heading and one sentence; show: RGB image of any size ->
    one of `results.Result`.  It is called by one thread at a time.  upright: whether the run
    turns images as their EXIF data say; the image is read likewise.
    """

    name: str
    title: str
    about: str
    show: Callable[[Image.Image], Result]
    upright: bool = False


def find_view(run: Any, kind: str, *, named: str | None = None) -> View | None:
    """The view an installed package offers for this kind of run; None for a tokenizer, which shows its codes.

    run: what the function is given, a run or an exported model; named: what errors call it.
    Raises ConfigError for a kind that has no view in any installed package.
    """
    offered = _entry_points.load(ENTRY_POINTS, kind, {"tokenizer": None},
                                 f"{named or run}: what to show of a kind of run")
    return None if offered is None else offered(run)


def model_view(image: Image.Image, image_size: Any, crop_share: float) -> tuple[Image.Image, np.ndarray]:
    """The central crop a model reads: as an image, and float32 (1, 3, H, W) in [0, 1]."""
    pixels = EvalTransform(image_size, crop_share=crop_share)(Sample(image, None, ""))["image"]
    return Image.fromarray(pixels), to_unit_floats(pixels[None])


def codes_view(tokenizer: Any, gallery: Iterable[Any] = (), *, keep: int = 8, upright: bool = False) -> View:
    """A tokenizer's view: the codes of an image, and of each code the `keep` nearest patches of the gallery.

    gallery: batches (images float32 (B, 3, H, W) in [0, 1], anything), read once, here.  Codes are those of
    `beitv2 tokenize`.  upright: as the tokenizer's run reads images.
    """
    from ..evaluation.codes import encode
    from ..evaluation.evaluate import nearest_patches
    from ..viz.codebook import code_colours

    gallery_size = [0]
    stats, nearest = nearest_patches(tokenizer, _counted(gallery, gallery_size), keep=keep)
    log.info("gallery: %d images, %d of %d codes have patches.", gallery_size[0], len(nearest), tokenizer.num_codes)

    all_colours = np.rint(255 * code_colours(tokenizer.quantize.codebook.numpy()))

    def show(image: Image.Image) -> CodesResult:
        seen, images = model_view(image, tokenizer.image_size, 1.0)
        grid = encode(tokenizer, images)[0].reshape(tuple(tokenizer.grid))
        codes, counts = np.unique(grid, return_counts=True)
        colours = all_colours[codes]
        found = []
        for i in np.argsort(-counts, kind="stable"):
            code = int(codes[i])
            patches = nearest.get(code, [])
            found.append(CodeSeen(code=code, colour=hex_colour(colours[i]), count=int(counts[i]),
                                  gallery_count=int(stats.counts[code]), num_patches=len(patches),
                                  patches=png_url(_row(patches)) if patches else None))
        return CodesResult(seen=image_url(seen), grid=grid.tolist(), num_codes=tokenizer.num_codes,
                           gallery_images=gallery_size[0], codes=found)

    rows, columns = tokenizer.grid
    return View("codes", "Codes", f"The tokenizer turns the image into {rows} x {columns} codes, each out of "
                f"{tokenizer.num_codes:,}. Codes near each other have colours near each other.", show, upright)


def _counted(batches: Iterable[Any], total: list[int]) -> Iterator[Any]:
    for batch in batches:
        yield batch
        total[0] += len(batch[0])


def _row(patches: list[np.ndarray]) -> Image.Image:
    """Patches side by side, a transparent gap of an eighth of their width between them."""
    height, width = patches[0].shape[:2]
    gap = max(1, width // 8)
    row = Image.new("RGBA", (len(patches) * (width + gap) - gap, height))
    for i, patch in enumerate(patches):
        row.paste(Image.fromarray(patch), (i * (width + gap), 0))
    return row
