# SPDX-License-Identifier: Apache-2.0
"""From one sample to the batch a task reads: the tokenizer's, the pretraining's and the evaluation's recipe.

A transform turns (sample, rng) into a dict of small arrays, images as uint8 (H, W, 3); its `batch` turns the stacked
dict into floats. The second half runs once per batch in the parent, so workers send a quarter of the bytes.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import numpy as np

from ..rng import SampleRng
from ..sources.sample import Sample
from .colour import ColorJitter, recolour
from .transforms import (
    EvalCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Size,
    TwoViewCrop,
    edges,
    mirrored,
    normalise,
    reduced,
    to_unit_floats,
)


class TokenizerBatch(NamedTuple):
    """images: float32 (B, 3, H, W) in [0, 1]; paths: B strings; rows: int64 (B,), image * views + view where the views
    are fixed, else empty."""

    images: np.ndarray
    paths: list[str]
    rows: np.ndarray = np.zeros(0, dtype=np.int64)


class MimBatch(NamedTuple):
    """patch_view: float32 (B, 3, H, W), ImageNet-normalised; token_view: float32 (B, 3, h, w) in [0, 1], the same crop;
    mask: bool (B, N), True = hidden; paths: B strings; rows: int64 (B,), image * views + view where the views are
    fixed, else empty."""

    patch_view: np.ndarray
    token_view: np.ndarray
    mask: np.ndarray
    paths: list[str]
    rows: np.ndarray = np.zeros(0, dtype=np.int64)


class LabelledBatch(NamedTuple):
    """images: float32 (B, 3, H, W) in [0, 1]; labels: int64 (B,), -1 = none; paths: B strings."""

    images: np.ndarray
    labels: np.ndarray
    paths: list[str]


def of_view(rng: SampleRng, views: int | None) -> SampleRng:
    """The generators a view is drawn from: the epoch's, or with `views` fixed ones those of epoch mod views."""
    if views is None or rng.key is None:
        return rng
    seed, epoch, index = rng.key
    return SampleRng.for_sample(seed, epoch % views, index)


def row_of_view(rng: SampleRng, views: int) -> int:
    """Number of the view that `of_view` made these generators for: image * views + view."""
    _, number, index = rng.key  # type: ignore[misc]
    return index * views + number


def _rows(stacked: dict[str, Any]) -> dict[str, np.ndarray]:
    return {"rows": stacked["row"].astype(np.int64)} if "row" in stacked else {}


class TokenizerTransform:
    """Random resized crop (bicubic), then a flip; no colour change (recipe of the tokenizer).

    draft: images may be decoded smaller, `shrink(full size, rng)` says how much.  views: number of fixed views of an
    image; None draws new ones in every epoch.  With fixed ones epoch e shows the view of epoch e mod views, and "row"
    says which view of which image it is.  Gives {"image": uint8 (H, W, 3), "path": str}. Source: official
    `datasets.py: build_vqkd_dataset`.
    Departs: crop and flip draw from the sample's python generator; torchvision draws them from torch's.
    Departs: fixed views, where asked for; the official code has none.
    """

    def __init__(
        self, image_size: Size, *, scale: tuple[float, float] = (0.08, 1.0), interpolation: str = "bicubic",
        draft: bool = False, views: int | None = None,
    ) -> None:
        self.crop = RandomResizedCrop(image_size, scale=scale, interpolation=interpolation)
        self.flip = RandomHorizontalFlip()
        self.shrink = self._shrink if draft else None
        self.views = views

    def _shrink(self, size: tuple[int, int], rng: SampleRng) -> int:
        return self.crop.reduction(self.crop.draw(*size, of_view(rng, self.views)))

    def __call__(self, sample: Sample, rng: SampleRng) -> dict[str, Any]:
        """Augment one sample."""
        rng = of_view(rng, self.views)
        made = {"image": np.asarray(self.flip(self.crop.read_sample(sample, rng)[0], rng)), "path": sample.path}
        return made if self.views is None else {**made, "row": row_of_view(rng, self.views)}

    def batch(self, stacked: dict[str, Any]) -> TokenizerBatch:
        """Turn the stacked samples into floats."""
        return TokenizerBatch(to_unit_floats(stacked["image"]), stacked["path"], **_rows(stacked))


class MimTransform:
    """Colour jitter, flip, one crop read twice, then a mask (recipe of the pretraining, in the official order).

    image_size: of the student's view, pixels; token_size: of the tokenizer's view (default the same). masking: callable
    rng -> bool (gh, gw). jitter None = no colour change. Gives {"patch_view", "mask" (N,), "path"} and, only when it
    differs from the patch view, "token_view".  views: number of fixed views of an image; None draws new ones in every
    epoch.  With fixed ones epoch e shows the view of epoch e mod views, the mask is of epoch e, and "row" says which
    view of which image it is.  draft: images may be decoded smaller, `shrink(full size, rng)` says how much.
    Source: official `datasets.py: DataAugmentationForBEiT`.
    Departs: fixed views, where asked for; the official code has none.
    """

    def __init__(
        self,
        image_size: Size,
        masking: Callable[[SampleRng], np.ndarray],
        *,
        token_size: Size | None = None,
        scale: tuple[float, float] = (0.2, 1.0),
        interpolation: str = "bicubic",
        token_interpolation: str = "bicubic",
        jitter: float | tuple[float, float, float] | None = 0.4,
        views: int | None = None,
        draft: bool = False,
    ) -> None:
        self.masking, self.views = masking, views
        self.shrink = self._shrink if draft else None
        self.jitter: ColorJitter | None = None
        if jitter:
            self.jitter = ColorJitter(*((jitter,) * 3 if isinstance(jitter, (int, float)) else jitter))
        self.flip = RandomHorizontalFlip()
        self.crop = TwoViewCrop(
            image_size,
            image_size if token_size is None else token_size,
            scale=scale,
            interpolation=interpolation,
            second_interpolation=token_interpolation,
        )

    def __call__(self, sample: Sample, rng: SampleRng) -> dict[str, Any]:
        """Augment one sample and draw its mask."""
        if self.views is None:
            return self._sample(sample, rng, rng)
        masks = rng.fork("mask")  # another stream: the view's must not depend on the mask, nor look like it
        view = of_view(rng, self.views)
        return {**self._sample(sample, view, masks), "row": row_of_view(view, self.views)}

    def _shrink(self, size: tuple[int, int], rng: SampleRng) -> int:
        rng = of_view(rng, self.views)
        if self.jitter is not None:
            self.jitter.draw(rng)
        self.flip.draw(rng)
        return self.crop.reduction(self.crop.draw(*size, rng))

    def _sample(self, sample: Sample, rng: SampleRng, masks: SampleRng) -> dict[str, Any]:
        image = sample.image
        changes = [] if self.jitter is None else self.jitter.draw(rng)
        flipped = self.flip.draw(rng)
        full = sample.full_size or image.size
        box = self.crop.draw(*full, rng)
        left, top, right, bottom = edges(box)
        if flipped:  # the box is one of the mirrored image
            left, right = full[0] - right, full[0] - left
        outer, inner = reduced((left, top, right, bottom), sample.reduction)
        part = recolour(image, changes, outer)  # no pixel is touched that no view shows
        if flipped:
            part = mirrored(part)
            inner = inner and (part.width - inner[2], inner[1], part.width - inner[0], inner[3])
        patch_view, token_view = self.crop.read(part, inner)
        result = {"patch_view": np.asarray(patch_view), "mask": self.masking(masks).reshape(-1), "path": sample.path}
        if token_view is not patch_view:
            result["token_view"] = np.asarray(token_view)
        return result

    def batch(self, stacked: dict[str, Any]) -> MimBatch:
        """Turn the stacked samples into floats."""
        patch_view = to_unit_floats(stacked["patch_view"])
        token_view = to_unit_floats(stacked["token_view"]) if "token_view" in stacked else patch_view
        return MimBatch(normalise(patch_view), token_view, stacked["mask"], stacked["path"], **_rows(stacked))


class EvalTransform:
    """The central crop, without randomness; images in [0, 1] with their labels.

    crop_share 1.0 keeps the whole short side (right for images that already have the size, such as DigitScenes).
    """

    def __init__(self, image_size: Size, *, crop_share: float = 0.875, interpolation: str = "bicubic") -> None:
        self.crop = EvalCrop(image_size, crop_share, interpolation)

    def __call__(self, sample: Sample, rng: SampleRng | None = None) -> dict[str, Any]:
        """Crop one sample."""
        label = -1 if sample.label is None else sample.label
        return {"image": np.asarray(self.crop(sample.image)), "label": label, "path": sample.path}

    def batch(self, stacked: dict[str, Any]) -> LabelledBatch:
        """Turn the stacked samples into floats."""
        return LabelledBatch(to_unit_floats(stacked["image"]), stacked["label"], stacked["path"])
