# SPDX-License-Identifier: Apache-2.0
"""The results a view can have: classes, a class for every pixel, codes, features, or the nearest images of a file.

The page draws these (`draw.js`).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Annotated, Literal, Optional, Union

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field

from ..errors import ShapeError
from ..viz.attention import heat_pixels
from ..viz.codebook import palette
from ..viz.features import all_similarities, component_colours

SHOWN_SIDE = 1024  # pixels of the longest side of an image that is sent back
PNG_SIDE = 320  # up to this size images are sent back exactly
MAX_PATCHES = 1024  # of one image, to send the similarities of all pairs: 32 x 32 patches give about 4 MB
_DATA_URL = "PNG or JPEG as a data URL"


class ClassShare(BaseModel):
    """A class and its probability."""

    name: str
    probability: float = Field(ge=0, le=1)


class ClassesResult(BaseModel):
    """The likeliest classes of an image."""

    kind: Literal["classes"] = "classes"
    seen: str = Field(description=f"what the model saw, {_DATA_URL}")
    classes: list[ClassShare] = Field(description="likeliest first")


class PixelClass(BaseModel):
    """A class that some pixels have."""

    name: str
    colour: str = Field(description="colour in the overlay, #rrggbb")
    share: float = Field(ge=0, le=1, description="share of the pixels")


class LabelMapResult(BaseModel):
    """A class for every pixel."""

    kind: Literal["label_map"] = "label_map"
    seen: str = Field(description=f"the image, {_DATA_URL}")
    overlay: str = Field(description="the classes as opaque colours, as wide and high as `seen`, PNG as a data URL")
    classes: list[PixelClass] = Field(description="the classes that occur, largest first")


class CodeSeen(BaseModel):
    """A code of the image."""

    code: int
    colour: str = Field(description="colour in the grid, #rrggbb; the same in every image and figure")
    count: int = Field(description="patches of this image that have it")
    gallery_count: int = Field(description="patches of the gallery that have it")
    patches: Optional[str] = Field(
        description="the gallery's patches nearest to the code in one row, nearest first, PNG as a data URL; "
                    "null where no patch of the gallery has the code"
    )
    num_patches: int = Field(description="patches in that row")


class CodesResult(BaseModel):
    """The codes of an image."""

    kind: Literal["codes"] = "codes"
    seen: str = Field(description=f"what the tokenizer saw, {_DATA_URL}")
    grid: list[list[int]] = Field(description="codes, row by row")
    num_codes: int = Field(description="size of the codebook")
    gallery_images: int = Field(description="images the patches were chosen from")
    codes: list[CodeSeen] = Field(description="the codes that occur, commonest first")


class FeaturesResult(BaseModel):
    """The patch features of an image, and where the class token looks."""

    kind: Literal["features"] = "features"
    seen: str = Field(description=f"what the model saw, {_DATA_URL}")
    rows: int = Field(description="rows of patches")
    columns: int = Field(description="columns of patches")
    components: str = Field(description="the first three principal components of the patch features as red, green and "
                                        "blue, one pixel a patch, PNG as a data URL")
    explained: list[float] = Field(description="the three components' shares of the variance")
    similarity: Optional[list[list[int]]] = Field(
        description="cosine of every two patches in hundredths, patches counted row by row; null with more than "
                    f"{MAX_PATCHES:,} patches"
    )
    attention: list[str] = Field(description="attention of the class token to the patches in the last block, an image "
                                             "for every head, one pixel a patch, light to dark, each scaled to its "
                                             "largest value, PNG as a data URL; empty for exported models")


class Neighbour(BaseModel):
    """An image of the file of features, and how near it is."""

    name: str = Field(description="its path below the folder that all images of the file have in common")
    similarity: float = Field(description="cosine of its features with those of the image that was sent")
    image: Optional[str] = Field(description=f"a small copy, {_DATA_URL}; null where the image cannot be read any more")


class NeighboursResult(BaseModel):
    """The images of a file of features that are nearest to the image."""

    kind: Literal["neighbours"] = "neighbours"
    seen: str = Field(description=f"what the model saw, {_DATA_URL}")
    images: int = Field(description="images in the file")
    neighbours: list[Neighbour] = Field(description="nearest first")


Result = Annotated[Union[ClassesResult, LabelMapResult, CodesResult, FeaturesResult, NeighboursResult],
                   Field(discriminator="kind")]


def features_result(seen: Image.Image, features: np.ndarray, attention: np.ndarray | None = None) -> FeaturesResult:
    """Components and similarities of the patch features of one image.

    seen: what the model saw; features: (rows, columns, width); attention: (heads, rows, columns), None: unknown.
    Raises ShapeError for another shape and for values that are not finite.
    """
    found = component_colours(np.asarray(features)[None])
    rows, columns = found.colours.shape[1:3]
    similarity = None
    if rows * columns <= MAX_PATCHES:
        similarity = np.rint(100 * all_similarities(features)).astype(int).tolist()
    maps = [] if attention is None else [png_url(Image.fromarray(heat_pixels(one))) for one in attention]
    return FeaturesResult(
        seen=image_url(seen), rows=rows, columns=columns, components=png_url(Image.fromarray(_bytes(found.colours[0]))),
        explained=list(found.explained), similarity=similarity, attention=maps)


def _bytes(colours: np.ndarray) -> np.ndarray:
    return np.rint(255 * colours).astype(np.uint8)


def label_map_result(
    image: Image.Image, labels: np.ndarray, names: Sequence[str], *, colours: np.ndarray | None = None
) -> LabelMapResult:
    """A class for every pixel of `image`: `labels` (H, W) are class numbers.

    names: class names by number; colours: uint8 (classes, 3), by default those of `viz.codebook.palette`.  Shares are
    of all pixels; the images sent back are reduced to a longest side of 1024 pixels.
    Raises ShapeError for labels of another size and for class numbers without a name.
    """
    labels = np.asarray(labels)
    if labels.shape != (image.height, image.width) or not np.issubdtype(labels.dtype, np.integer):
        raise ShapeError(f"label_map_result: labels have shape {labels.shape} of {labels.dtype}, the image is "
                         f"{image.height} x {image.width} (height x width); expected one class number a pixel.")
    numbers, counts = np.unique(labels, return_counts=True)
    if numbers[0] < 0 or numbers[-1] >= len(names):
        raise ShapeError(f"label_map_result: class numbers run from {numbers[0]} to {numbers[-1]}; there are names "
                         f"for 0 .. {len(names) - 1}.")
    table = np.rint(255 * palette(np.arange(len(names)))).astype(np.uint8) if colours is None else np.asarray(colours)
    small = _reduced(image)
    overlay = Image.fromarray(table[labels].astype(np.uint8))
    if small.size != overlay.size:
        overlay = overlay.resize(small.size, Image.Resampling.NEAREST)
    found = [PixelClass(name=names[numbers[i]], colour=hex_colour(table[numbers[i]]),
                          share=float(counts[i] / labels.size)) for i in np.argsort(-counts, kind="stable")]
    return LabelMapResult(seen=image_url(small), overlay=png_url(overlay), classes=found)


def hex_colour(rgb: np.ndarray) -> str:
    """#rrggbb of three levels 0 .. 255."""
    return "#" + "".join(f"{int(level):02x}" for level in rgb)


def png_url(image: Image.Image) -> str:
    """The image as a data URL, pixel by pixel."""
    return _data_url(image, "PNG")


def image_url(image: Image.Image) -> str:
    """The image as a data URL: exactly up to 320 pixels, as JPEG of at most 1024 pixels beyond."""
    return png_url(image) if max(image.size) <= PNG_SIDE else _data_url(_reduced(image), "JPEG", quality=90)


def _reduced(image: Image.Image) -> Image.Image:
    factor = SHOWN_SIDE / max(image.size)
    if factor >= 1:
        return image
    return image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))),
                        Image.Resampling.BOX)


def _data_url(image: Image.Image, kind: str, **options: int) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
