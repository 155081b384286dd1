# SPDX-License-Identifier: Apache-2.0
"""Speed of the data pipelines on one core, against plain Pillow and numpy code that makes the same arrays.

    python benchmarks/data_cases.py                    # images drawn with a fixed seed
    python benchmarks/data_cases.py FOLDER             # images of your own

Each case works the same images through ours and through the plain pipeline in turns, so that both see the same
machine, and compares all arrays bit for bit.  Decoding is part of both.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from beitv2_core.data import ImageFolder, MimTransform, Sample, SampleRng
from beitv2_core.data.views.augment import erase
from beitv2_core.data.views.classify_recipe import ClassTrainTransform
from beitv2_core.data.workers import stack_samples
from beitv2_core.masking import BlockwiseMasking

IMAGES, BATCH, ROUNDS = 48, 16, 4
SIZES = ((500, 375), (375, 500), (500, 333), (500, 375), (480, 360), (500, 400))  # of ImageNet's usual kind
MEAN, STD = (np.array(values, np.float32)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
Case = dict[str, Any]


def draw_image(number: int) -> Image.Image:
    """An image with smooth ground, edges and grain; the same for the same number."""
    draws = np.random.RandomState(number)
    width, height = SIZES[number % len(SIZES)]
    ground = Image.fromarray(draws.randint(0, 256, (6, 8, 3), dtype=np.uint8))
    image = ground.resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(30):
        left, top = int(draws.randint(width)), int(draws.randint(height))
        size = [int(side) for side in draws.randint(8, 120, 2)]
        colour = tuple(int(level) for level in draws.randint(0, 256, 3))
        (pen.ellipse if draws.randint(2) else pen.rectangle)((left, top, left + size[0], top + size[1]), fill=colour)
    grain = draws.normal(0, 8, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


@contextlib.contextmanager
def images(folder: Path | None) -> Iterator[ImageFolder]:
    """The images of a folder; drawn ones, as JPEG files of quality 90, where there is none."""
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for number in range(IMAGES):
                draw_image(number).save(folder / f"{number:03d}.jpg", quality=90)
        yield ImageFolder(folder)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Everything inside runs on the first core this process may use (Linux)."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def in_turns(count: int, ours: Callable[[Sequence[int]], Any], plain: Callable[[Sequence[int]], Any]) -> Case:
    """Seconds of both for all images, batch by batch in turns; the first round warms up and compares."""
    seconds: dict[str, list[float]] = {"seconds": [], "plain_seconds": []}
    identical = True
    with one_core():
        for number in range(1 + ROUNDS):
            spent = dict.fromkeys(seconds, 0.0)
            for start in range(0, count, BATCH):
                indices = range(start, min(start + BATCH, count))
                made = {}
                for name, work in (("seconds", ours), ("plain_seconds", plain)):
                    began = time.perf_counter()
                    made[name] = work(indices)
                    spent[name] += time.perf_counter() - began
                if number == 0:
                    pairs = zip(made["seconds"], made["plain_seconds"])
                    identical = identical and all(np.array_equal(one, other) for one, other in pairs)
            if number:
                for name, values in seconds.items():
                    values.append(spent[name])
    return {**seconds, "images": count, "identical": identical}


def opened(path: str) -> Image.Image:
    with open(path, "rb") as file, Image.open(file) as image:
        return image.convert("RGB")


def to_floats(image: Image.Image) -> np.ndarray:
    return np.asarray(image).transpose(2, 0, 1).astype(np.float32) / np.float32(255)


def pretrain_views(folder: Path | None = None) -> Case:
    """Two views and a mask, 224 pixels.  The plain pipeline recolours whole images, crops and resizes twice."""
    transform = MimTransform(224, BlockwiseMasking((14, 14), 75, min_block=16))
    enhancers = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast,
                 "saturation": ImageEnhance.Color}

    def one(path: str, rng: SampleRng) -> tuple[np.ndarray, ...]:
        image = opened(path)
        assert transform.jitter is not None
        for name, factor in transform.jitter.draw(rng):
            image = enhancers[name](image).enhance(factor)
        if transform.flip.draw(rng):
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        top, left, height, width = transform.crop.draw(image.width, image.height, rng)
        part = image.crop((left, top, left + width, top + height))
        views = [part.resize((224, 224), transform.crop.filter) for _ in range(2)]
        return (to_floats(views[0]) - MEAN) / STD, to_floats(views[1]), transform.masking(rng).reshape(-1)

    with images(folder) as found:
        def ours(indices: Sequence[int]) -> tuple[np.ndarray, ...]:
            made = [transform(found.load(i), SampleRng.for_sample(0, 0, i)) for i in indices]
            batch = transform.batch(stack_samples(made))
            return batch.patch_view, batch.token_view, batch.mask

        def plain(indices: Sequence[int]) -> list[np.ndarray]:
            made = [one(str(found.root / found.paths[i]), SampleRng.for_sample(0, 0, i)) for i in indices]
            return [np.stack(part) for part in zip(*made)]

        return in_turns(len(found), ours, plain)


def finetune_transform(folder: Path | None = None) -> Case:
    """Crop, flip, RandAugment, erasing, 224 pixels.  The plain pipeline has the same RandAugment and makes each sample
    floats by itself."""
    transform = ClassTrainTransform(224)

    def one(path: str, rng: SampleRng) -> np.ndarray:
        image = opened(path)
        top, left, height, width = transform.crop.draw(image.width, image.height, rng)
        image = image.crop((left, top, left + width, top + height)).resize((224, 224), transform.crop.filter)
        if transform.flip.draw(rng):
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        assert transform.augment is not None
        image = transform.augment(image, rng)
        boxes = transform.erasing(224, 224, rng)
        floats = (to_floats(image) - MEAN) / STD
        erase(floats, boxes, np.random.RandomState(rng.python.getrandbits(32)))
        return floats

    with images(folder) as found:
        def ours(indices: Sequence[int]) -> list[np.ndarray]:
            made = [transform(found.load(i), SampleRng.for_sample(0, 0, i)) for i in indices]
            return [transform.batch(stack_samples(made)).images]

        def plain(indices: Sequence[int]) -> list[np.ndarray]:
            made = [one(str(found.root / found.paths[i]), SampleRng.for_sample(0, 0, i)) for i in indices]
            return [np.stack(made)]

        return in_turns(len(found), ours, plain)


def segment_transform(folder: Path | None = None) -> Case:
    """The recipe of ADE20K, 512 pixels, with labels of 150 classes.  The plain pipeline distorts levels in float32,
    counts classes with numpy's unique and normalises in float32, as mmsegmentation does."""
    import cv2

    from beitv2_seg.data import transforms as recipe

    resize, crop, flip = recipe.BEiTv2RatioRangeResize(), recipe.BEiTv2RandomCrop(), recipe.BEiTv2RandomFlip()
    steps = [resize, crop, flip, recipe.BEiTv2PhotoMetricDistortion(), recipe.BEiTv2Normalize(), recipe.BEiTv2Pad()]
    mean, inverse = np.array([[123.675, 116.28, 103.53]]), 1 / np.array([[58.395, 57.12, 57.375]])

    def scaled(levels: np.ndarray, alpha: float = 1.0, beta: float = 0.0) -> np.ndarray:
        return np.clip(levels.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)

    def plain_box(label: np.ndarray) -> tuple[int, int, int, int]:
        box = crop.draw(*label.shape)
        for _ in range(10):
            values, counts = np.unique(label[box[0]:box[1], box[2]:box[3]], return_counts=True)
            counts = counts[values != 255]
            if len(counts) > 1 and counts.max() / counts.sum() < 0.75:
                break
            box = crop.draw(*label.shape)
        return box

    def distort(image: np.ndarray) -> np.ndarray:
        draws = np.random
        if draws.randint(2):
            image = scaled(image, beta=draws.uniform(-32, 32))
        first = draws.randint(2) == 1
        if first and draws.randint(2):
            image = scaled(image, alpha=draws.uniform(0.5, 1.5))
        if draws.randint(2):
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            hsv[:, :, 1] = scaled(hsv[:, :, 1], alpha=draws.uniform(0.5, 1.5))
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if draws.randint(2):
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            hsv[:, :, 0] = (hsv[:, :, 0].astype(int) + draws.randint(-18, 18)) % 180
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if not first and draws.randint(2):
            image = scaled(image, alpha=draws.uniform(0.5, 1.5))
        return image

    def plain_one(image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        height, width = recipe.scaled_size(*label.shape, resize.draw())
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        label = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)
        top, bottom, left, right = plain_box(label)
        image, label = image[top:bottom, left:right], label[top:bottom, left:right]
        if np.random.rand() < 0.5:
            image, label = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(label[:, ::-1])
        floats = cv2.multiply(cv2.subtract(distort(image).astype(np.float32), mean), inverse)
        below, beside = (max(512 - side, 0) for side in label.shape)
        border = (0, below, 0, beside, cv2.BORDER_CONSTANT)
        return (cv2.copyMakeBorder(floats, *border, value=[0] * 3),
                cv2.copyMakeBorder(label, *border, value=[255] * 3))

    def our_one(image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        data = {"img": image, "label": label, "gt_fields": ["label"]}
        for step in steps:
            data = step(data)
        return data["img"], data["label"]

    with images(folder) as found:
        def run(one: Callable[..., Any], indices: Sequence[int]) -> list[np.ndarray]:
            made = []
            for index in indices:
                sample: Sample = found.load(index)
                image = np.asarray(sample.image)
                label = (np.asarray(sample.image.convert("L")) // 64).astype(np.uint8)  # a few large regions
                np.random.seed(index)
                made.append(one(image, label))
            return [np.stack(part) for part in zip(*made)]

        return in_turns(len(found), lambda indices: run(our_one, indices), lambda indices: run(plain_one, indices))


CASES: dict[str, Callable[..., Case]] = {
    "pretrain_views": pretrain_views, "finetune_transform": finetune_transform, "segment_transform": segment_transform}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    for name, case in CASES.items():
        found = case(folder)
        best, plain = min(found["seconds"]), min(found["plain_seconds"])
        print(f"{name}: {found['images'] / best:.1f} images/s, plain {found['images'] / plain:.1f}, "
              f"ratio {plain / best:.2f}, identical: {found['identical']}")


if __name__ == "__main__":
    main()
