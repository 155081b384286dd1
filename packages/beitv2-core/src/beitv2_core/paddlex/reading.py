# SPDX-License-Identifier: Apache-2.0
"""How images become pixels and crops for a model that PaddleX runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Union

import numpy as np
from PIL import Image

from ..data.sources.image_file import Reading, decode_path, explain
from ..data.views.transforms import EvalCrop
from ..errors import ShapeError
from ..exported_model import Description


def transform_ops(facts: Mapping[str, Any], *, crop: bool = True) -> list[dict[str, Any]]:
    """`PreProcess.transform_ops` in PaddleX's words, of fields of `exported_model.Description`.

    crop: whether the predictor knows `CropImage`; if not, PaddleX's own steps stretch the image to its size.
    PaddleX rounds the long side and the offsets otherwise; `as_exported` does as the model's own commands do.
    """
    height, width = facts["image_size"]
    name = facts.get("interpolation", "bicubic")
    how = {"backend": "pil", "interpolation": "LANCZOS4" if name == "lanczos" else name.upper()}
    cut = [{"ResizeImage": {"size": [width, height], **how}}]
    if crop:
        short = int(min(height, width) / facts["crop_share"])
        cut = [{"ResizeImage": {"resize_short": short, **how}}, {"CropImage": {"size": [width, height]}}]
    scaled = {"NormalizeImage": {"scale": 1 / 255, "mean": list(facts["mean"]), "std": list(facts["std"]), "order": ""}}
    return [*cut, scaled, {"ToCHWImage": None}]


class ReadAsExported:
    """PaddleX's `Read`: files by our decoder, arrays as PaddleX gives them, uint8 (H, W, 3) in the order BGR."""

    def __init__(self, reading: Reading):
        self.reading = reading

    def __call__(self, imgs: Sequence[Union[str, np.ndarray]]) -> list[np.ndarray]:
        """RGB uint8 (H, W, 3) of every image; DataError naming a file that cannot be decoded, ShapeError for an array
        of another shape or type."""
        return [self._file(image) if isinstance(image, str) else self._array(image) for image in imgs]

    def _array(self, pixels: np.ndarray) -> np.ndarray:
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ShapeError(f"an image given to PaddleX is {pixels.dtype} of shape {pixels.shape}; expected uint8 of "
                             "shape (height, width, 3), in the order BGR.")
        return np.ascontiguousarray(pixels[:, :, ::-1])

    def _file(self, path: str) -> np.ndarray:
        try:
            return np.asarray(decode_path(path, reading=self.reading).image)
        except Exception as error:  # decoders raise anything on broken input
            raise explain(path, error) from error


class CropAsExported:
    """PaddleX's `Resize` and `Crop` in one: the central crop that the model's own commands take."""

    def __init__(self, known: Description):
        self.crop = EvalCrop(known.image_size, known.crop_share, known.interpolation)

    def __call__(self, imgs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """RGB uint8 (height, width, 3) of every image."""
        return [np.asarray(self.crop(Image.fromarray(image))) for image in imgs]


def as_exported(steps: Mapping[str, Any], known: Description) -> dict[str, Any]:
    """A predictor's preprocessing steps by name, with our reading and crop in place of PaddleX's.

    The crops are then equal to the pixel for images of every size and orientation; scaling stays PaddleX's.
    """
    kept = {name: step for name, step in steps.items() if name not in ("Read", "Resize", "Crop")}
    read = ReadAsExported(Reading(upright=known.exif_orientation))
    return {"Read": read, "Resize": CropAsExported(known), **kept}
