# SPDX-License-Identifier: Apache-2.0
"""Layer-wise rates and the poly schedule of the segmentation recipe, also as components a YAML can name."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

from beitv2_core.engine.optim import layer_decay_scale, parameter_groups
from beitv2_core.errors import ConfigError


def poly_schedule(lr: float, *, total_steps: int, warmup_steps: int = 1500, warmup_ratio: float = 1e-6,
                  power: float = 1.0, min_lr: float = 0.0) -> np.ndarray:
    """Poly decay over all steps, its first `warmup_steps` scaled linearly from `warmup_ratio` to 1: (total_steps,).

    Step i: (lr - min_lr) (1 - i / total)^power + min_lr, times 1 - (1 - i / warmup) (1 - ratio) during warm-up.
    A run shorter than its warm-up ends within it.  Raises ConfigError for a run without steps.
    Source: mmcv 1.3, hooks/lr_updater.py, PolyLrUpdaterHook.
    """
    if total_steps < 1 or warmup_steps < 0:
        raise ConfigError(f"poly_schedule: a run of {total_steps} steps with a warm-up of {warmup_steps}; expected at "
                          "least one step and no negative warm-up.")
    steps = np.arange(total_steps, dtype=np.float64)
    rates = (lr - min_lr) * (1 - steps / total_steps) ** power + min_lr
    if warmup_steps:
        warming = steps[:warmup_steps]
        rates[:warmup_steps] *= 1 - (1 - warming / warmup_steps) * (1 - warmup_ratio)
    return rates


class BEiTv2AdamW:
    """AdamW with layer-wise learning rates, as an optimizer component (called with the model and the schedule).

    weight_decay: decoupled decay of the weights; layer_decay: factor of the rate from a layer to the one below; beta1:
    decay of the mean of the gradients; beta2: decay of the mean of their squares; epsilon: Adam's epsilon.
    No decay for 1-D parameters and biases; as in the official code the class token does decay.  PaddleSeg's AdamWDL
    fails to run, AdamWDL_CAE has other rates.
    Source: official mmcv_custom/layer_decay_optimizer_constructor.py.
    """

    def __init__(self, weight_decay: float = 0.05, layer_decay: float = 0.75, beta1: float = 0.9,
                 beta2: float = 0.999, epsilon: float = 1e-8):
        if not 0 < layer_decay <= 1:
            raise ConfigError(f"BEiTv2AdamW: layer_decay is {layer_decay}; expected above 0 and at most 1.")
        self.weight_decay, self.layer_decay = weight_decay, layer_decay
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon

    def __call__(self, model: Any, lr: Any) -> Any:
        groups = parameter_groups(model, weight_decay=self.weight_decay,
                                  lr_scale=layer_decay_scale(model.backbone.depth, self.layer_decay,
                                                             trunk="backbone."))
        return paddle.optimizer.AdamW(lr, self.beta1, self.beta2, self.epsilon, parameters=groups,
                                      weight_decay=self.weight_decay)


class BEiTv2WarmupPoly(paddle.optimizer.lr.LRScheduler):
    """`poly_schedule` as a Paddle scheduler.

    learning_rate: the peak; total_iters: must be the run's `iters`; warmup: iterations of the linear warm-up;
    warmup_ratio: share of the rate it starts from; power: exponent of the decay; end_lr: rate at the end.
    PaddleSeg's own poly schedule with warm-up decays over iters - warm-up; the official one decays over all of them.
    """

    def __init__(self, learning_rate: float, total_iters: int, warmup: int = 1500, warmup_ratio: float = 1e-6,
                 power: float = 1.0, end_lr: float = 0.0):
        self.rates = poly_schedule(learning_rate, total_steps=total_iters, warmup_steps=warmup,
                                   warmup_ratio=warmup_ratio, power=power, min_lr=end_lr)
        self.end_lr = end_lr
        super().__init__(learning_rate)

    def get_lr(self) -> float:
        """The rate of the current step; `end_lr` after the last one."""
        return float(self.rates[self.last_epoch]) if self.last_epoch < len(self.rates) else self.end_lr
