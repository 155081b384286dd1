# SPDX-License-Identifier: Apache-2.0
"""The evaluation of both stages together: numbers for `summary.json`, figures for the eye."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle

from ..assembly import (
    build_dataset,
    build_masking,
    build_mim,
    held_out,
    load_mim,
    load_tokenizer,
    reading_of_run,
    seed_everything,
)
from ..assembly.held_out import data_of_run, has_classes, named_images
from ..config.sections import DataConfig
from ..data import Reading, SampleRng, eval_batches
from ..data.views.transforms import normalise
from ..datasets import DRAWN, SOURCES
from ..errors import ConfigError
from ..files.durable import make_folder
from ..pixels.size import pair
from .attention import class_attention
from .codes import encode
from .evaluate import linear_probe, masked_code_accuracy, nearest_patches, pooled_features

log = logging.getLogger("beitv2_core")
SHOWN = 8  # images in a figure
GALLERY_CODES = 16  # most used and least used codes in the gallery, each


class Settings(NamedTuple):
    """What to evaluate on what: data and train are folders of images (train: class folders), or drawn images."""

    tokenizer_run: str
    pretrain_run: str
    data: str | None = None
    images: int = 1000
    train_images: int = 2000
    batch_size: int = 128
    train: str | None = None
    max_pixels: int | None = None
    num_workers: int = 0


def make_report(settings: Settings, folder: Path) -> dict[str, Any]:
    """Evaluate on test images, spread over all there are, and draw; returns the summary (JSON-able).

    The probe is a logistic regression on the mean patch feature, fitted on training images, scored on test images,
    against the same on a backbone of the same shape with random weights; left out when the images have no labels.
    Raises ConfigError where the test images are among those a run was trained on, and for two runs that cut an image
    into different grids of patches.
    """
    tokenizer = load_tokenizer(settings.tokenizer_run)
    student, config = load_mim(settings.pretrain_run)
    reading = reading_of_run(settings.pretrain_run, max_pixels=settings.max_pixels)
    if tokenizer.grid != tuple(config.grid):
        raise ConfigError(f"{settings.tokenizer_run}: cuts an image into {tokenizer.grid[0]} x {tokenizer.grid[1]} "
                          f"patches, {settings.pretrain_run} into {config.grid[0]} x {config.grid[1]}. Give the "
                          "tokenizer whose codes that run predicts.")
    size, limit = config.data.image_size, settings.images
    trained_on = [config.data, data_of_run(settings.tokenizer_run)]
    train_set = probe_images(settings, config.data, reading)
    classes = None if train_set is None or settings.data in DRAWN else train_set.classes
    test = held_out(settings.data, trained_on, run=settings.pretrain_run, image_size=pair(size), size=limit,
                    reading=reading, labelled=True)
    if test.classes is not None and classes is not None and test.classes != classes:
        test = held_out(settings.data, trained_on, run=settings.pretrain_run, image_size=pair(size), size=limit,
                        reading=reading, classes=classes)

    def batches(dataset: Any = test, image_size: Any = size, most: int = limit) -> Any:
        return eval_batches(dataset, image_size, batch_size=settings.batch_size, limit=most,
                            num_workers=settings.num_workers)

    stats, gallery = nearest_patches(tokenizer, batches(image_size=tokenizer.image_size))
    masking = build_masking(config.mask, config.grid)
    masked = masked_code_accuracy(student, tokenizer, masking, batches(), seed=config.seed)
    summary: dict[str, Any] = {
        "tokenizer_run": settings.tokenizer_run,
        "pretrain_run": settings.pretrain_run,
        "images": min(limit, len(test)),
        "codebook": {
            "num_codes": tokenizer.num_codes,
            "codes_used": int((stats.counts > 0).sum()),
            "usage": stats.used,
            "perplexity": stats.perplexity,
            "most_frequent_share": stats.most_frequent,
        },
        "masked_code_accuracy": {
            "heads": masked.heads,
            "most_frequent_share": masked.most_frequent,
            "patches": masked.patches,
        },
    }
    if test.classes is None or train_set is None:
        missing = "the test images have no class folders" if test.classes is None else "no labelled training images"
        log.info("no linear probe: %s. Give class folders, and --train FOLDER with training images in such.", missing)
    else:
        summary["linear_probe"] = probe_gain(student, config, tokenizer.num_codes, settings,
                                             lambda: batches(train_set, most=settings.train_images), batches)
        summary["linear_probe"]["train_images"] = min(settings.train_images, len(train_set))
    shown = next(batches(most=SHOWN)).images
    summary["figures"] = draw(settings, folder / "figures", tokenizer, student, masking, stats, gallery, shown)
    return summary


def draw_codes(run: str, path: Path) -> None:
    """Draw the codes of `SHOWN` images that a tokenizer's run left out: what it learnt, before there is a backbone.

    run: run folder; path: of the PNG file.  Raises ConfigError where the run left no image out, CheckpointError where
    it has no whole checkpoint, OSError where the picture cannot be written.
    """
    from ..viz.codebook import code_map

    tokenizer = load_tokenizer(run)
    test = held_out(None, [data_of_run(run)], run=run, image_size=pair(tokenizer.image_size), size=SHOWN,
                    reading=reading_of_run(run))
    images = next(eval_batches(test, tokenizer.image_size, batch_size=SHOWN, limit=SHOWN)).images
    make_folder(path.parent)
    code_map(images, _codes_of(tokenizer, images), tokenizer.quantize.codebook.numpy(), path)


def _codes_of(tokenizer: Any, images: np.ndarray) -> np.ndarray:
    return encode(tokenizer, images).reshape(len(images), *tokenizer.grid)


def probe_images(settings: Settings, trained_on: DataConfig, reading: Reading) -> Any:
    """Labelled training images of the probe: the named ones, or those of the pretraining run; None without labels."""
    named = settings.data if settings.train is None else settings.train
    if named in DRAWN:
        data = DataConfig(dataset=named, size=settings.train_images, image_size=trained_on.image_size)
        return build_dataset(data, size=settings.train_images)
    if settings.train is not None:
        return build_dataset(named_images(settings.train, trained_on.image_size, reading), with_classes=True,
                             setting="--train")
    if SOURCES[trained_on.dataset].split:
        return None if settings.data is not None else build_dataset(trained_on, size=settings.train_images)
    trained_on = trained_on.model_copy(update={"max_pixels": reading.max_pixels})
    return build_dataset(trained_on, with_classes=True) if has_classes(trained_on) else None


def probe_gain(student: Any, config: Any, num_codes: int, settings: Settings, train_images: Any,
               test_images: Any) -> dict[str, Any]:
    """Accuracy of the probe on pretrained and on random features; train_images, test_images: make the batches."""
    seed_everything(config.seed)
    untrained = build_mim(config.model, image_size=config.data.image_size, num_codes=num_codes)
    untrained.eval()
    accuracy = {}
    for name, backbone in (("pretrained", student), ("random", untrained)):
        accuracy[name] = linear_probe(
            pooled_features(backbone, train_images()), pooled_features(backbone, test_images())
        )
    return {**accuracy, "gain": accuracy["pretrained"] - accuracy["random"]}


def draw(
    settings: Settings,
    folder: Path,
    tokenizer: Any,
    student: Any,
    masking: Any,
    stats: Any,
    gallery: dict[int, list[np.ndarray]],
    images: np.ndarray,
) -> list[str]:
    """Draw the figures into `folder`; returns their paths."""
    from ..viz.attention import attention_maps
    from ..viz.codebook import code_gallery, code_histogram, code_map
    from ..viz.curves import training_curves
    from ..viz.masks import mask_examples

    make_folder(folder)
    used = [int(code) for code in stats.counts.argsort()[::-1] if stats.counts[code] > 0]
    chosen = list(dict.fromkeys(used[:GALLERY_CODES] + used[-GALLERY_CODES:]))
    masks = np.stack([masking(SampleRng.for_sample(0, 0, number)) for number in range(len(images))])
    with paddle.no_grad():
        attention = class_attention(student, paddle.to_tensor(normalise(images)))
    names = ("code_histogram", "code_gallery", "code_map", "masks", "attention")
    drawn = [folder / f"{name}.png" for name in names]
    code_histogram(stats.counts, drawn[0])
    code_gallery({code: gallery[code] for code in chosen}, stats.counts, drawn[1])
    code_map(images, _codes_of(tokenizer, images), tokenizer.quantize.codebook.numpy(), drawn[2])
    mask_examples(images, masks, drawn[3])
    attention_maps(images, attention, drawn[4])
    for stage, run in (("tokenizer", settings.tokenizer_run), ("pretrain", settings.pretrain_run)):
        metrics = Path(run) / "metrics.jsonl"
        if metrics.is_file():
            drawn.append(folder / f"{stage}_curves.png")
            training_curves(metrics, drawn[-1])
    return [str(path) for path in drawn]


