"""What PaddleSeg's YAML files can name: the only file that knows PaddleSeg."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn

from beitv2_core.engine.optim import parameter_groups
from beitv2_core.errors import ConfigError, MissingDependencyError
from beitv2_seg import transforms
from beitv2_seg.backbone import BEiTv2
from beitv2_seg.losses import pixel_cross_entropy
from beitv2_seg.optim import layer_decay_scale, poly_schedule
from beitv2_seg.segmentor import BEiTv2UPerNet


class BEiTv2CrossEntropyLoss(nn.Layer):
    """`pixel_cross_entropy` as a loss component: averaged over all pixels, ignored ones counting as 0.

    PaddleSeg's own divides by the labelled pixels only; its 2.8.0 wheel also fails on today's Paddle.
    """

    def __init__(self, ignore_index: int = 255):
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        """Scalar loss of logits (B, C, H, W) and labels (B, H, W)."""
        return pixel_cross_entropy(logits, labels, self.ignore_index)


class BEiTv2AdamW:
    """AdamW with layer-wise learning rates, as an optimizer component (called with the model and the schedule).

    layer_decay: factor of the rate from a layer to the one below.  No decay for 1-D parameters and biases; as in the
    official code the class token does decay.  PaddleSeg's AdamWDL fails to run, AdamWDL_CAE has other rates.
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
                                  lr_scale=layer_decay_scale(model.backbone.depth, self.layer_decay))
        return paddle.optimizer.AdamW(lr, self.beta1, self.beta2, self.epsilon, parameters=groups,
                                      weight_decay=self.weight_decay)


class BEiTv2WarmupPoly(paddle.optimizer.lr.LRScheduler):
    """`poly_schedule` as a Paddle scheduler: `total_iters` must be the run's `iters`.

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


TRANSFORMS = (transforms.BEiTv2RatioRangeResize, transforms.BEiTv2Resize, transforms.BEiTv2RandomCrop,
              transforms.BEiTv2RandomFlip, transforms.BEiTv2PhotoMetricDistortion, transforms.BEiTv2Normalize,
              transforms.BEiTv2Pad)


def register() -> list[str]:
    """Make our components known to PaddleSeg's YAML by name; returns the names.  Safe to call twice.

    Raises MissingDependencyError without PaddleSeg, ConfigError where a name is taken by somebody else.
    """
    try:
        from paddleseg.cvlibs import manager
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"PaddleSeg cannot be imported: {error}. Type: pip install 'beitv2-seg[paddleseg]', or install the "
            "package named here.") from error
    names = []
    for shelf, components in ((manager.BACKBONES, (BEiTv2,)), (manager.MODELS, (BEiTv2UPerNet,)),
                              (manager.LOSSES, (BEiTv2CrossEntropyLoss,)), (manager.OPTIMIZERS, (BEiTv2AdamW,)),
                              (manager.TRANSFORMS, TRANSFORMS)):
        for component in components:
            taken = shelf.components_dict.get(component.__name__, component)
            if taken is not component:
                raise ConfigError(f"PaddleSeg already has a {shelf.name} component named {component.__name__!r} "
                                  f"({taken.__module__}).")
            if component.__name__ not in shelf.components_dict:
                shelf.add_component(component)
            names.append(component.__name__)
    # SegBuilder looks schedules up on this module and nowhere else.
    paddle.optimizer.lr.BEiTv2WarmupPoly = BEiTv2WarmupPoly
    return [*names, "BEiTv2WarmupPoly"]
