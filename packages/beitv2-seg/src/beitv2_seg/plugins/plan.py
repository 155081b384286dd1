# SPDX-License-Identifier: Apache-2.0
"""What a segmentation run costs, from its YAML (entry point `beitv2.plans`)."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

from beitv2_core.assembly.from_architecture import count_parameters
from beitv2_core.config.sections import pair
from beitv2_core.errors import ConfigError
from beitv2_core.models.backbone import SIZES
from beitv2_core.planning.cost import FLOAT32_BYTES, Cost, LayerCosts, total
from beitv2_core.planning.run import PlannedRun, Schedule
from beitv2_seg.assembly import build_model, plan_accumulation, with_pretrained_settings
from beitv2_seg.config import SegmentConfig
from beitv2_seg.config.translate import train_settings
from beitv2_seg.model.backbone import BEiTv2
from beitv2_seg.model.segmentor import BEiTv2UPerNet
from beitv2_seg.paddleseg.components import argument_names, find_component

#: moments the optimizers keep
STATES = {"BEiTv2AdamW": 2}
Trunk = dict[str, Any]


def planned_segmentation(config: SegmentConfig, *, images: Optional[int], devices: int) -> PlannedRun:
    """A run of `BEiTv2UPerNet`, or of a model that says its own cost, on a `BEiTv2` backbone.

    Such a model has `planned_cost(layers, maps, pixels, width, num_classes, **arguments) -> Cost` as a static method:
    what it costs beside the trunk and its four maps.  maps: pixels of these, finest first; pixels: of an image; width:
    channels of a map; arguments: the model's own, defaults included.
    Raises ConfigError naming a component whose cost is not known.
    """
    source = config.model.backbone.options().get("pretrained")
    if source is not None and Path(source).exists():  # a run that is still to come decides nothing yet
        config = with_pretrained_settings(config)
    kind = _planned_model(config)
    model = _with_defaults(kind, config.model.options())
    trunk = trunk_of(config)
    accumulate = plan_accumulation(config, devices)
    total_batch = config.batch_size * devices * accumulate
    if images is None:
        images = config.train_dataset.options().get("size")  # of drawn images; a folder's are not needed
    repeated = None if images is None else images * config.run.repeats
    schedule = Schedule(config.batch_size, devices, accumulate, total_batch, config.iters, repeated,
                        None if repeated is None else max(1, repeated // total_batch))

    def costs(layers: LayerCosts) -> tuple[Cost, Cost]:
        classes = config.model.num_classes
        if kind is BEiTv2UPerNet:
            head = _decode_head(layers, trunk, model, classes) + _auxiliary_head(layers, trunk, model, classes)
        else:
            head = kind.planned_cost(layers, maps=_level_pixels(trunk), pixels=trunk["pixels"], width=trunk["width"],
                                     num_classes=classes, **model)
        return total(_trunk(layers, trunk), _pyramid(layers, trunk), head), Cost()

    parameters = count_parameters(lambda: build_model(config, pretrained=False)), 0
    return PlannedRun("segment", schedule, costs, parameters, states=STATES[config.optimizer.type],
                      averaged=config.run.use_ema, amp=train_settings(config).amp,
                      recompute=bool(trunk["recompute"]), sharding=config.run.sharding)


def _planned_model(config: SegmentConfig) -> Any:
    """The class of the model; ConfigError for a component whose cost is not known."""
    kind = find_component(config.model.type, "model")
    own = (config.model.type,) if hasattr(kind, "planned_cost") else ()
    for where, found, known in (("model.type", config.model.type, (BEiTv2UPerNet.__name__, *own)),
                                ("model.backbone.type", config.model.backbone.type, ("BEiTv2",)),
                                ("optimizer.type", config.optimizer.type, tuple(STATES))):
        if found not in known:
            raise ConfigError(f"{where}: what {found!r} costs is not known. Known: {', '.join(known)}.")
    return kind


def _with_defaults(kind: Any, given: Trunk) -> Trunk:
    """The arguments of a component, those of its base classes included, defaults filled in."""
    known: Trunk = {}
    for owner in inspect.getmro(kind):
        start = owner.__dict__.get("__init__")
        if start is None or owner.__module__.startswith("paddle"):
            continue
        for name, parameter in inspect.signature(start).parameters.items():
            if parameter.default is not parameter.empty:
                known.setdefault(name, parameter.default)
    unknown = sorted(set(given) - set(argument_names(kind) or given))
    if unknown:
        raise ConfigError(f"model: unknown key {unknown[0]!r} of {kind.__name__}. Known keys: "
                          f"{', '.join(argument_names(kind) or ())}.")
    return {**known, **given}


def trunk_of(config: SegmentConfig) -> Trunk:
    """The backbone's arguments with its defaults, and `grid`, `patches`, `tokens`."""
    given = config.model.backbone.options()
    size = given.get("size")
    if size is not None and size not in SIZES:
        raise ConfigError(f"model.backbone.size: {size!r} is not known. Known sizes: {', '.join(SIZES)}.")
    trunk = _with_defaults(BEiTv2, {**(SIZES[size] if size else {}), **given})
    (height, width), patch = pair(trunk["image_size"]), trunk["patch_size"]
    grid = (height // patch, width // patch)
    if patch not in (8, 16):
        raise ConfigError(f"model.backbone.patch_size: {patch}; expected 8 or 16.")
    return {**trunk, "grid": grid, "patches": grid[0] * grid[1], "pixels": height * width}


def _trunk(layers: LayerCosts, trunk: Trunk) -> Cost:
    positions = ("shared_relative" if trunk["use_shared_rel_pos_bias"] else
                 "relative" if trunk["use_rel_pos_bias"] else "absolute" if trunk["use_abs_pos_emb"] else "none")
    width = trunk["width"]
    return layers.trunk(trunk["grid"], patch=trunk["patch_size"] ** 2, channels=trunk["in_channels"], width=width,
                        depth=trunk["depth"], heads=trunk["num_heads"], hidden=int(width * trunk["mlp_ratio"]),
                        positions=positions, layer_scale=bool(trunk["init_values"]), drop_path=trunk["drop_path"])


def _batch_norm(pixels: float, channels: int, size: int) -> Cost:
    """It keeps its input of `size` bytes a number; its running statistics are buffers."""
    return Cost(buffer_bytes=2 * channels * FLOAT32_BYTES, kept_bytes=pixels * channels * size)


def _conv_module(layers: LayerCosts, pixels: float, channels: int, out: int, kernel: int) -> Cost:
    """Convolution, batch norm, ReLU, which keeps what it gives; that is the next one's input."""
    return total(layers.convolution(pixels, channels, out, kernel), _batch_norm(pixels, out, layers.half),
                 Cost(kept_bytes=pixels * out * layers.half))


def _pyramid(layers: LayerCosts, trunk: Trunk) -> Cost:
    """The four levels of `pyramid.pyramid_levels`; each reads a map of its own, what it gives is the heads' input."""
    patches, width = trunk["patches"], trunk["width"]
    finest = layers.transposed(patches, width, width)
    map_bytes = float(patches * width * FLOAT32_BYTES)
    # Pooling keeps what it reads and gives.
    coarsest = Cost(kept_bytes=map_bytes + _level_pixels(trunk)[3] * width * FLOAT32_BYTES)
    if trunk["patch_size"] == 8:
        return total(finest, Cost(kept_bytes=map_bytes), coarsest)
    return total(finest, _batch_norm(4 * patches, width, FLOAT32_BYTES), Cost(kept_bytes=4 * map_bytes),  # GELU's input
                 layers.transposed(4 * patches, width, width), layers.transposed(patches, width, width), coarsest)


def _level_pixels(trunk: Trunk) -> list[float]:
    """Pixels of the four maps, finest first."""
    return [trunk["pixels"] / stride**2 for stride in (4, 8, 16, 32)]


def _decode_head(layers: LayerCosts, trunk: Trunk, model: Trunk, classes: int) -> Cost:
    pixels, width, channels = _level_pixels(trunk), trunk["width"], model["channels"]
    scales = list(model["pool_scales"])
    pooled = [2.0 * pixels[3] * bins**2 * width for bins in scales]  # FLOP of each product with its pooling matrix
    pyramid = [total(_conv_module(layers, bins**2, width, channels, 1), Cost(forward_flop=flop, backward_flop=flop))
               for bins, flop in zip(scales, pooled)]
    together = len(pixels) * channels
    return total(
        *pyramid, _conv_module(layers, pixels[3], width + len(scales) * channels, channels, 3),
        *(_conv_module(layers, level, width, channels, 1) for level in pixels[:3]),
        *(_conv_module(layers, level, channels, channels, 3) for level in pixels[:3]),
        _conv_module(layers, pixels[0], together, channels, 3),
        _classifier(layers, pixels[0], trunk["pixels"], channels, classes, model["dropout"]),
    )


def _auxiliary_head(layers: LayerCosts, trunk: Trunk, model: Trunk, classes: int) -> Cost:
    level, channels, width = _level_pixels(trunk)[2], model["aux_channels"], trunk["width"]
    shared = Cost(kept_bytes=-level * width * layers.half)  # it reads the map that the other head keeps
    return total(_conv_module(layers, level, width, channels, 3), shared,
                 _classifier(layers, level, trunk["pixels"], channels, classes, model["dropout"]))


def _classifier(layers: LayerCosts, level: float, pixels: float, channels: int, classes: int, dropout: float) -> Cost:
    """Dropout of channels, 1 x 1 convolution, enlargement and cross-entropy at the image's own size."""
    cost = total(layers.convolution(level, channels, classes, 1), layers.softmax_loss(pixels, classes),
                 Cost(kept_bytes=8.0 * pixels))  # labels
    # Without dropout the convolution reads the very map the ReLU before it kept.
    return replace(cost, kept_bytes=cost.kept_bytes - (0 if dropout else level * channels * layers.half))
