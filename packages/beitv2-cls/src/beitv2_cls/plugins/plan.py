# SPDX-License-Identifier: Apache-2.0
"""Memory and compute of fine-tuning and linear-probe runs, from their settings (entry points `beitv2.plans`)."""

from __future__ import annotations

from typing import Any, Optional

from beitv2_cls.assembly import build_classifier
from beitv2_cls.config import FinetuneConfig, LabelledRunConfig, LinearProbeConfig
from beitv2_cls.linear_probe import LinearProbes
from beitv2_core.assembly import build_dataset
from beitv2_core.assembly.costs import STATES, count_images, patch_area, schedule_of, trunk_cost
from beitv2_core.assembly.from_architecture import count_parameters
from beitv2_core.errors import ConfigError, DataError
from beitv2_core.planning.cost import FLOAT32_BYTES, Cost, LayerCosts, total
from beitv2_core.planning.run import PlannedRun


def planned_finetuning(config: FinetuneConfig, *, images: Optional[int], devices: int) -> PlannedRun:
    """A fine-tuning run; ConfigError where the number of images or classes is not known."""
    count, model = count_images(config.data, images), config.model
    classes = count_classes(config)

    def costs(layers: LayerCosts) -> tuple[Cost, Cost]:
        return total(_trunk(layers, config), layers.norm(1 if model.pooling == "mean" else tokens_of(config),
                                                               model.width),
                     layers.product(1, model.width, classes), layers.softmax_loss(1, classes)), Cost()

    parameters = count_parameters(lambda: build_classifier(config, classes)), 0
    return PlannedRun("finetune", schedule_of(config.optim, config.train, count, devices), costs, parameters,
                      averaged=config.ema_decay is not None, **_common(config))


def planned_linear_probe(config: LinearProbeConfig, *, images: Optional[int], devices: int) -> PlannedRun:
    """A linear evaluation: the trunk is frozen, its features are read once for all classifiers."""
    count, model, probe = count_images(config.data, images), config.model, config.probe
    classes = count_classes(config)
    blocks = list(range(model.depth) if probe.layers is None else probe.layers)

    def costs(layers: LayerCosts) -> tuple[Cost, Cost]:
        one = [total(layers.product(1, model.width * (2 if feature == "concat" else 1), classes, first=True),
                     layers.softmax_loss(1, classes))
               for feature in probe.features for _ in range(len(blocks) * len(probe.rates))]
        # Outputs of the tapped blocks are kept until the features are computed from them.
        taps = Cost(kept_bytes=float(len(blocks) * tokens_of(config) * model.width * FLOAT32_BYTES))
        return total(taps, *one), _trunk(layers, config).frozen()

    def build_probes() -> LinearProbes:
        return LinearProbes(build_classifier(config, classes), num_classes=classes, layers=blocks,
                            features=probe.features, rates=probe.rates)

    parameters = count_parameters(build_probes), count_parameters(lambda: build_classifier(config, classes))
    return PlannedRun("linear_probe", schedule_of(config.optim, config.train, count, devices), costs, parameters,
                      beside="frozen backbone", **_common(config))


def count_classes(config: LabelledRunConfig) -> int:
    """Number of classes, of the settings or of the data; ConfigError where neither has it."""
    if config.model.num_classes is not None:
        return config.model.num_classes
    try:
        return len(build_dataset(config.data, with_classes=True).classes)
    except DataError as error:
        raise ConfigError("model.num_classes: not set, and data.root has no images to count them. Add --set "
                          "model.num_classes=N (ImageNet-1k: 1000).") from error


def tokens_of(config: LabelledRunConfig) -> int:
    """Patches and the class token."""
    return config.grid[0] * config.grid[1] + 1


def _trunk(layers: LayerCosts, config: LabelledRunConfig) -> Cost:
    return trunk_cost(layers, config.model, config.grid, patch=patch_area(config.model.patch_size))


def _common(config: LabelledRunConfig) -> dict[str, Any]:
    return {"states": STATES[config.optim.kind], "amp": config.train.amp, "recompute": config.train.recompute,
            "sharding": config.train.sharding}
