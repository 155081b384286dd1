"""The evaluation of both stages together: numbers for `summary.json`, figures for the eye."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle

from .assembly import build_dataset, build_masking, build_mim, load_mim, load_tokenizer, seed_everything
from .codes import encode
from .config.sections import DataConfig
from .data import SampleRng
from .data.transforms import normalise
from .evaluate import eval_batches, linear_probe, masked_code_accuracy, nearest_patches, pooled_features

log = logging.getLogger("beitv2_core")
SHOWN = 8  # pictures in a figure
GALLERY_CODES = 16  # most used and least used codes in the gallery, each


class Settings(NamedTuple):
    """What to evaluate on what."""

    tokenizer_run: str
    pretrain_run: str
    data: str | None = None
    pictures: int = 1000
    train_pictures: int = 2000
    batch_size: int = 128


def make_report(settings: Settings, folder: Path) -> dict[str, Any]:
    """Evaluate on test pictures and draw; returns the summary (JSON-able).

    The probe is a logistic regression on the mean patch feature, fitted on training pictures, scored on test pictures,
    against the same on a backbone of the same shape with random weights; left out when the pictures have no labels.
    """
    tokenizer = load_tokenizer(settings.tokenizer_run)
    student, config = load_mim(settings.pretrain_run)
    data = chosen_data(settings, config.data)
    test = build_dataset(data, split="test", size=settings.pictures)
    size, batch_size, limit = config.data.image_size, settings.batch_size, settings.pictures

    def pictures() -> Any:
        return eval_batches(test, size, batch_size=batch_size, limit=limit)

    stats, gallery = nearest_patches(
        tokenizer, eval_batches(test, tokenizer.image_size, batch_size=batch_size, limit=limit)
    )
    masking = build_masking(config.mask, config.grid)
    masked = masked_code_accuracy(student, tokenizer, masking, pictures(), seed=config.seed)
    summary: dict[str, Any] = {
        "tokenizer_run": settings.tokenizer_run,
        "pretrain_run": settings.pretrain_run,
        "pictures": min(limit, len(test)),
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
    probe = probe_gain(student, config, tokenizer.num_codes, data, pictures, settings)
    if probe is not None:
        summary["linear_probe"] = probe
    first = next(pictures())[0]
    summary["figures"] = draw(settings, folder / "figures", tokenizer, student, masking, stats, gallery, first)
    return summary


def chosen_data(settings: Settings, trained_on: DataConfig) -> DataConfig:
    """The pictures named by the user, or those of the pretraining run."""
    if settings.data is None:
        return trained_on
    given: dict[str, Any] = {"image_size": trained_on.image_size}
    if settings.data == "digit_scenes":
        return DataConfig(dataset="digit_scenes", size=settings.pictures, **given)
    return DataConfig(dataset="folder", root=settings.data, **given)


def probe_gain(
    student: Any, config: Any, num_codes: int, data: DataConfig, test_pictures: Any, settings: Settings
) -> dict[str, Any] | None:
    """Accuracy of the probe on pretrained and on random features; None without labels."""
    train_set = build_dataset(data, split="train", size=settings.train_pictures)
    if train_set.classes is None:
        log.info("the pictures have no labels: no linear probe")
        return None

    def train_pictures() -> Any:
        return eval_batches(
            train_set, config.data.image_size, batch_size=settings.batch_size, limit=settings.train_pictures
        )

    seed_everything(config.seed)
    untrained = build_mim(config.model, image_size=config.data.image_size, num_codes=num_codes)
    untrained.eval()
    accuracy = {}
    for name, backbone in (("pretrained", student), ("random", untrained)):
        accuracy[name] = linear_probe(
            pooled_features(backbone, train_pictures()), pooled_features(backbone, test_pictures())
        )
    return {
        **accuracy,
        "gain": accuracy["pretrained"] - accuracy["random"],
        "train_pictures": min(settings.train_pictures, len(train_set)),
    }


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
    from .viz.attention import attention_maps
    from .viz.codebook import code_gallery, code_histogram, code_map
    from .viz.curves import training_curves
    from .viz.masks import mask_examples

    folder.mkdir(parents=True, exist_ok=True)
    images = images[:SHOWN]
    used = [int(code) for code in stats.counts.argsort()[::-1] if stats.counts[code] > 0]
    chosen = list(dict.fromkeys(used[:GALLERY_CODES] + used[-GALLERY_CODES:]))
    masks = np.stack([masking(SampleRng.for_sample(0, 0, number)) for number in range(len(images))])
    codes = encode(tokenizer, images).reshape(len(images), *tokenizer.grid)
    with paddle.no_grad():
        attention_BHTT = student.last_attention(paddle.to_tensor(normalise(images))).numpy()
    # what the class token looks at, as a picture for each head
    attention = attention_BHTT[:, :, 0, 1:].reshape(*attention_BHTT.shape[:2], *student.grid)
    names = ("code_histogram", "code_gallery", "code_map", "masks", "attention")
    drawn = [folder / f"{name}.png" for name in names]
    code_histogram(stats.counts, drawn[0])
    code_gallery({code: gallery[code] for code in chosen}, stats.counts, drawn[1])
    code_map(images, codes, drawn[2])
    mask_examples(images, masks, drawn[3])
    attention_maps(images, attention, drawn[4])
    for stage, run in (("tokenizer", settings.tokenizer_run), ("pretrain", settings.pretrain_run)):
        metrics = Path(run) / "metrics.jsonl"
        if metrics.is_file():
            drawn.append(folder / f"{stage}_curves.png")
            training_curves(metrics, drawn[-1])
    return [str(path) for path in drawn]


