"""Layer-wise rates and the poly schedule of the segmentation recipe."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from beitv2_core.errors import ConfigError


def layer_of(name: str, depth: int) -> int:
    """Layer of a parameter of the whole model: embeddings 0, block i is i + 1, everything else depth + 1.

    Source: official mmcv_custom/layer_decay_optimizer_constructor.py, get_num_layer_for_vit.
    """
    if name in ("backbone.cls_token", "backbone.mask_token", "backbone.pos_embed"):
        return 0
    if name.startswith("backbone.patch_embed"):
        return 0
    if name.startswith("backbone.blocks."):
        return int(name.split(".")[2]) + 1
    return depth + 1


def layer_decay_scale(depth: int, decay: float) -> Callable[[str], float]:
    """The factor of the learning rate by parameter name: decay ** (depth + 1 - layer)."""
    return lambda name: decay ** (depth + 1 - layer_of(name, depth))


def poly_schedule(lr: float, *, total_steps: int, warmup_steps: int = 1500, warmup_ratio: float = 1e-6,
                  power: float = 1.0, min_lr: float = 0.0) -> np.ndarray:
    """Poly decay over all steps, its first `warmup_steps` scaled linearly from `warmup_ratio` to 1: (total_steps,).

    Step i: (lr - min_lr) (1 - i / total)^power + min_lr, times 1 - (1 - i / warmup) (1 - ratio) during warm-up.
    Raises ConfigError for a warm-up longer than the run.  Source: mmcv 1.3, hooks/lr_updater.py, PolyLrUpdaterHook.
    """
    if total_steps < 1 or not 0 <= warmup_steps <= total_steps:
        raise ConfigError(f"poly_schedule: a warm-up of {warmup_steps} in a run of {total_steps} steps. Shorten the "
                          "warm-up or lengthen the run.")
    steps = np.arange(total_steps, dtype=np.float64)
    rates = (lr - min_lr) * (1 - steps / total_steps) ** power + min_lr
    if warmup_steps:
        rates[:warmup_steps] *= 1 - (1 - steps[:warmup_steps] / warmup_steps) * (1 - warmup_ratio)
    return rates
