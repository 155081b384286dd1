# SPDX-License-Identifier: Apache-2.0
"""The rules put together: facts about images and machine become the settings of both stages, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from . import rules
from .rules import Choice, Size

STAGES = ("tokenizer", "pretrain")
GIVEN = "given by --set"
#: seconds between two log lines, and between two checkpoints
LOG_S, SAVE_S = 10.0, 60.0


class Facts(NamedTuple):
    """What the rules read.

    images: of the data set; short_side: pixels, in the middle; broken_share: of the files; seconds: for training, as
    far as known; tflops: of the device's matrix products; teachers: by name, their cost in TFLOP of 64 images for each
    patch; given: dotted key -> value that the user has set.
    """

    images: int
    short_side: int
    broken_share: float
    seconds: float
    tflops: float
    gpu: bool
    processes: int
    teachers: Mapping[str, rules.Installed]
    given: Mapping[str, Any]


class Recipe(NamedTuple):
    """Settings of both stages as plain values, and why: (dotted key, reason), in the order of choosing."""

    settings: dict[str, Any]
    reasons: dict[str, str]


def _taken(choice: Choice, given: Mapping[str, Any], *keys: str) -> Choice:
    """The choice, or what the user has set for one of these keys."""
    for key in keys:
        if given.get(key) is not None:
            return Choice(given[key], GIVEN)
    return choice


def _reason(choice: Choice, given: Mapping[str, Any], *keys: str) -> str:
    """Why a size is what it is, where the user may have set a part of it."""
    return GIVEN if any(given.get(key) is not None for key in keys) else choice.reason


def _first(size: Any) -> int:
    """A side in pixels of a size that may be a pair."""
    return int(size if isinstance(size, (int, float)) else size[0])


def untimed(facts: Facts, data: Mapping[str, Any], batch: Optional[int] = None) -> Recipe:
    """Everything but what needs measured rates; steps are stand-ins.

    data: the settings that name the images.  batch: largest that fits the memory; None: not looked up yet.
    """
    given, tflop = facts.given, facts.seconds * facts.tflops
    held = _taken(rules.held_out_images(facts.images), given, "tokenizer.data.held_out", "pretrain.data.held_out")
    left = max(1, facts.images - int(held.value))
    patch, image = rules.patch_and_image(facts.short_side, tflop)
    patch = _taken(patch, given, "tokenizer.encoder.patch_size", "pretrain.model.patch_size")
    image = _taken(image, given, "tokenizer.data.image_size", "pretrain.data.image_size")
    if patch.reason == GIVEN and image.reason != GIVEN:
        image = Choice(max(1, _first(image.value) // _first(patch.value)) * _first(patch.value),
                       "a whole number of the given patches")
    rows = _first(image.value) // max(1, _first(patch.value))
    patches = max(2, rows * rows)
    size = rules.model_size(patches, tflop)
    backbone: Size = size.value
    width = int(given.get("pretrain.model.width") or backbone.width)
    encoder = rules.tokenizer_size(backbone)
    taught = rules.teacher({name: one._replace(cost=one.cost * patches / facts.tflops / rules.SHARE_OF_PEAK)
                            for name, one in facts.teachers.items()}, rules.TOKENIZER_SHARE * facts.seconds)
    hog = taught.value[0] == "hog" and given.get("tokenizer.teacher.name", "hog") == "hog"
    # a tokenizer step costs about a third of the backbone's, of which it is smaller in width and depth
    cost = 72.0 * encoder.value[0] ** 2 * (encoder.value[1] + 1)
    seen = rules.SHARE_OF_PEAK * rules.TOKENIZER_SHARE * tflop * 1e12 / cost
    codes = _taken(rules.codebook_size(_first(patch.value), left * patches, seen, hog=hog), given,
                   "tokenizer.quantizer.num_codes")
    size_of_batch = rules.batch_size(left, batch, gpu=facts.gpu, processes=facts.processes)
    at_once = {stage: _taken(size_of_batch, given, f"{stage}.train.batch_size") for stage in STAGES}
    rates = [rules.learning_rates(int(at_once[stage].value) * facts.processes, width)[i]
             for i, stage in enumerate(STAGES)]
    hidden = rules.masked_patches(patches)
    smaller = rules.smaller_decoding(facts.short_side, _first(image.value))
    broken = rules.broken_allowed(facts.broken_share)

    common = {**data, "image_size": image.value, "crop_scale": [0.8, 1.0], "draft": smaller.value,
              "exif_orientation": True, "max_corrupt": broken.value, "num_workers": 0, "held_out": held.value}
    name, weights = taught.value
    stand_in = {"steps": 1_000_000, "min_lr": 1.0e-5}
    trunk = {"width": encoder.value[0], "num_heads": encoder.value[2], "positions": "absolute"}
    settings = {
        "tokenizer": {
            "kind": "tokenizer",
            "data": common,
            "encoder": {**trunk, "depth": encoder.value[1], "patch_size": patch.value},
            "decoder": {**trunk, "depth": encoder.value[3]},
            "quantizer": {"num_codes": codes.value, "code_dim": 16 if codes.value <= 1024 else 32},
            "health": {"revive_after": 20},
            "teacher": {"name": name, "weights": weights},
            "optim": {**stand_in, "lr": rates[0].value, "betas": [0.9, 0.99], "weight_decay": 1.0e-4},
            "train": {"batch_size": at_once["tokenizer"].value, "keep_last": 2},
        },
        "pretrain": {
            "kind": "pretrain",
            "data": common,
            "model": {"width": backbone.width, "depth": backbone.depth, "num_heads": backbone.heads,
                      "patch_size": patch.value, "positions": "shared_relative",
                      "early_layers": max(1, backbone.depth * 2 // 3), "head_layers": 1 if backbone.depth < 12 else 2},
            "tokenizer": {},
            "mask": {"kind": "blockwise", "num_masked": hidden.value[0], "min_block": hidden.value[1]},
            "optim": {**stand_in, "lr": rates[1].value, "betas": [0.9, 0.98], "weight_decay": 0.05, "clip_norm": 3.0},
            "train": {"batch_size": at_once["pretrain"].value, "keep_last": 2},
            "monitor": {"every": "auto"},
        },
    }
    reasons = {
        "data.held_out": held.reason, "data.image_size": image.reason, "patch_size": patch.reason,
        "data.draft": smaller.reason, "data.exif_orientation": "photographs are seen as a viewer shows them",
        "data.max_corrupt": broken.reason,
        "tokenizer.teacher.name": taught.reason,
        "pretrain.model.width": _reason(size, given, "pretrain.model.width", "pretrain.model.depth"),
        "tokenizer.encoder.width": _reason(encoder, given, "tokenizer.encoder.width", "tokenizer.encoder.depth"),
        "tokenizer.quantizer.num_codes": codes.reason,
        "pretrain.mask.num_masked": hidden.reason,
        "train.batch_size": at_once["pretrain"].reason,
        "tokenizer.optim.lr": rates[0].reason, "pretrain.optim.lr": rates[1].reason,
    }
    return Recipe(settings, reasons)


class Measured(NamedTuple):
    """What was measured for the steps.

    seconds: left for training; steps: seconds of one, of each stage; trained_on: images; total_batches: images behind
    one update, of each stage.
    """

    seconds: float
    steps: tuple[float, float]
    trained_on: int
    total_batches: tuple[int, int]


def timed(measured: Measured, given: Mapping[str, Any]) -> Recipe:
    """Steps, and what follows from them: warm-up, steps without codes, steps between log lines and checkpoints."""
    settings: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    left, lengths = measured.seconds, []
    for stage, rule, step, total_batch in zip(STAGES, (rules.tokenizer_steps, rules.backbone_steps), measured.steps,
                                              measured.total_batches):
        most = rules.most_steps(measured.trained_on, total_batch)
        epochs = given.get(f"{stage}.optim.epochs")
        own = None if epochs is None else int(epochs) * max(1, measured.trained_on // total_batch)
        chosen = Choice(own, GIVEN) if own else _taken(rule(left, step, most), given, f"{stage}.optim.steps")
        steps = int(chosen.value)
        lengths.append(steps if chosen.reason != GIVEN else rules.FEWEST_STEPS)
        left -= steps * step
        steps = max(1, steps)
        warm = rules.warm_up(steps)
        optim = {"steps": None if own else steps}
        if given.get(f"{stage}.optim.warmup_epochs") is None:
            optim["warmup_steps"] = warm.value
        settings[stage] = {"optim": optim, "train": {"log_every": rules.every(LOG_S, step, steps),
                                                     "save_every": rules.every(SAVE_S, step, steps)}}
        reasons[f"{stage}.optim.steps"] = chosen.reason
        reasons[f"{stage}.optim.warmup_steps"] = warm.reason
        if stage == "tokenizer":
            free = rules.before_codes(steps)
            settings[stage]["health"] = {"unquantized_steps": free.value,
                                         "kmeans_batches": min(8, free.value)}
            reasons["tokenizer.health.unquantized_steps"] = free.reason
    rules.enough_time(measured.seconds, (lengths[0], lengths[1]), measured.steps)
    reasons["train.save_every"] = f"about every {SAVE_S:.0f} s, and where a stage ends: what a kill can cost"
    return Recipe(settings, reasons)
