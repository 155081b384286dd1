# SPDX-License-Identifier: Apache-2.0
"""PaddleSeg's own losses, optimizers and schedules in our loop, as its builder makes them (cvlibs/builder.py).

What cannot give in our loop what it gives in PaddleSeg's is refused, with the line to write.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import paddle

from beitv2_core.engine.step import is_out_of_memory
from beitv2_core.errors import BEiTError, ConfigError
from beitv2_seg.config import Component
from beitv2_seg.paddleseg.components import COMPONENTS, SCHEDULES, build_component, check_arguments

POLY = "{type: PolynomialDecay, learning_rate: 0.01, end_lr: 0, power: 0.9}"
LAYERWISE = "{type: BEiTv2AdamW, weight_decay: 0.05, layer_decay: 0.75}"
PIXELWISE = "{type: BEiTv2CrossEntropyLoss}"
#: spellings that PaddleSeg takes for compatibility
SPELLINGS = {"adam": "Adam", "sgd": "SGD"}
#: losses of PaddleSeg that are made for other models -> what they read besides logits (B, C, H, W) and labels (B, H, W)
OTHER_INPUTS = {
    "DetailAggregateLoss": "one-channel edges", "EdgeAttentionLoss": "edges", "OhemEdgeAttentionLoss": "edges",
    "DualTaskLoss": "the edges of GSCNN", "RelaxBoundaryLoss": "the borders of DecoupledSegNet",
    "DistillCrossEntropyLoss": "a second model's logits", "DistillationLoss": "a second model's logits",
    "KLLoss": "a second model's logits", "L1Loss": "values like the logits", "MSELoss": "values like the logits",
    "MaskFormerLoss": "the queries of MaskFormer", "PixelContrastCrossEntropyLoss": "embeddings of the pixels",
    "PointCrossEntropyLoss": "the points of PointRend", "SECrossEntropyLoss": "one vector of classes an image",
}


# -- schedules --------------------------------------------------------------------------------------------------------


def learning_rates(spec: Component, iters: int) -> np.ndarray:
    """The learning rate of every iteration, float64 (iters,): of our schedules or any of `paddle.optimizer.lr`.

    PaddleSeg's keys: `warmup_iters` with `warmup_start_lr` warms up linearly to `learning_rate`, and the schedule
    begins afterwards; `decay_steps` of PolynomialDecay are the iterations that are left.
    Raises ConfigError for an unknown schedule, one that is not known in advance, and arguments it refuses.
    """
    if spec.type in (kind.__name__ for kind in SCHEDULES):
        return build_component(spec.model_dump(), "lr_scheduler").rates
    kind, options = _paddle_schedule(spec.type), spec.options()
    warmup, start = options.pop("warmup_iters", None), options.get("warmup_start_lr")
    if warmup is not None:
        for key in ("warmup_start_lr", "learning_rate"):
            if key not in options:
                raise ConfigError(f"lr_scheduler.{key}: required with warmup_iters: the rate the warm-up "
                                  f"{'starts from' if key == 'warmup_start_lr' else 'leads to'}. Add it.")
        del options["warmup_start_lr"]
    if spec.type == "PolynomialDecay":
        options.setdefault("decay_steps", max(iters - (warmup or 0), 1))
    check_arguments(kind, options, "lr_scheduler", more=("warmup_iters", "warmup_start_lr"))
    try:
        schedule = kind(**options)
        if warmup is not None:
            schedule = paddle.optimizer.lr.LinearWarmup(schedule, warmup_steps=warmup, start_lr=start,
                                                        end_lr=options["learning_rate"])
        rates = np.empty(iters)
        for i in range(iters):
            rates[i] = schedule()  # get_lr() would go on from the newest rate once more
            schedule.step()
    except (TypeError, ValueError, AssertionError, ArithmeticError, IndexError) as error:
        raise ConfigError(f"lr_scheduler.type: {spec.type!r} refuses its arguments: {error}. Correct them.") from error
    return rates


def warmup_of(spec: Component) -> int:
    """Iterations in which a schedule warms up: `warmup` of ours, with its default, or PaddleSeg's `warmup_iters`."""
    options = spec.options()
    for kind in SCHEDULES:
        if spec.type == kind.__name__:
            return int(options.get("warmup", inspect.signature(kind).parameters["warmup"].default))
    return int(options.get("warmup_iters") or 0)


def _paddle_schedule(name: str) -> Any:
    kinds = {key: kind for key, kind in vars(paddle.optimizer.lr).items()
             if inspect.isclass(kind) and issubclass(kind, paddle.optimizer.lr.LRScheduler) and kind not in SCHEDULES
             and kind is not paddle.optimizer.lr.LRScheduler}
    if name == "ReduceOnPlateau":
        raise ConfigError(f"lr_scheduler.type: {name!r} depends on the loss; expected a schedule that is known in "
                          f"advance. Write lr_scheduler: {POLY}")
    if name in ("LambdaDecay", "MultiplicativeDecay"):
        raise ConfigError(f"lr_scheduler.type: {name!r} needs a Python function, which a YAML file cannot hold. Write "
                          f"lr_scheduler: {POLY}")
    if name not in kinds:
        known = [kind.__name__ for kind in SCHEDULES] + sorted(kinds)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"lr_scheduler.type: {name!r} is no known schedule.{hint} Known: {', '.join(known)}.")
    return kinds[name]


# -- optimizers -------------------------------------------------------------------------------------------------------


def build_optimizer(spec: Component, model: Any, rate: float, *, sharding: str = "off") -> tuple[Any, float]:
    """The optimizer of the settings and its weight decay: ours, or PaddleSeg's SGD, Momentum, Adam and AdamW.

    As in PaddleSeg, `adam` and `sgd` are taken, and SGD with a momentum is Momentum.
    Raises ConfigError naming the key for what is unknown, does not run or would be without effect.
    """
    section = spec.model_dump()
    name = SPELLINGS.get(section["type"], section["type"])
    if name == "SGD" and "momentum" in section:
        name = "Momentum"
    if name.startswith("AdamWDL"):
        raise ConfigError(f"optimizer.type: {name!r} does not run with this model in PaddleSeg either. Layer decay as "
                          f"the authors have it: optimizer: {LAYERWISE}")
    recipe = build_component({**section, "type": name}, "optimizer")
    decay = getattr(recipe, "weight_decay", None)
    _check_groups(section.get("custom_cfg") or [], model, decay)
    if sharding != "off" and (section.get("grad_clip_cfg") or {}).get("name") == "ClipGradByGlobalNorm":
        raise ConfigError(f"run.sharding: {sharding}: each process would clip by the norm of its own gradients. Leave "
                          "out --sharding, or optimizer.grad_clip_cfg.")
    try:
        return recipe(model, rate), float(decay or 0.0)
    except BEiTError:
        raise
    except (TypeError, ValueError, AssertionError, AttributeError, IndexError, RuntimeError) as error:
        raise ConfigError(f"optimizer: {name} cannot be made of these arguments: {error}. Correct them.") from error


def _check_groups(groups: list[Mapping[str, Any]], model: Any, decay: float | None) -> None:
    """PaddleSeg reads over unknown keys, over names that fit nothing, and over factors of no decay."""
    names = [name for name, parameter in model.named_parameters() if not parameter.stop_gradient]
    known = ("name", "lr_mult", "weight_decay_mult")
    for i, group in enumerate(groups):
        where = f"optimizer.custom_cfg[{i}]"
        wrong = [key for key in group if key not in known]
        if wrong:
            raise ConfigError(f"{where}.{wrong[0]}: unknown key. Known keys: {', '.join(known)}.")
        if "name" not in group or not any(str(group["name"]) in name for name in names):
            raise ConfigError(f"{where}.name: {group.get('name')!r} is part of no parameter's name. Names are like "
                              f"{names[0]}, {names[-1]}.")
        if "weight_decay_mult" in group and decay is None:
            raise ConfigError(f"{where}.weight_decay_mult: there is no weight decay to multiply. Add "
                              "optimizer.weight_decay.")


# -- losses -----------------------------------------------------------------------------------------------------------


def build_loss(section: Mapping[str, Any], where: str) -> Callable[[paddle.Tensor, paddle.Tensor], paddle.Tensor]:
    """A scalar function of logits (B, C, H, W) and labels (B, H, W): our loss, or one of PaddleSeg's.

    Raises ConfigError for a loss made for other models; calling it raises ConfigError where PaddleSeg's fails.
    """
    _check_inputs(section, where)
    loss = build_component(section, where)
    if type(loss) in COMPONENTS["LOSSES"]:
        return loss
    instead = (f"Correct its arguments, write {PIXELWISE}, or put a newer PaddleSeg (a checkout) on the path: export "
               "PYTHONPATH=PADDLESEG")

    def scalar(logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        try:
            found = loss(logits, labels)
        except Exception as error:  # Paddle's kernels raise anything
            if isinstance(error, BEiTError) or is_out_of_memory(error):
                raise
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise ConfigError(f"{where}: {section['type']} fails on Paddle {paddle.__version__}: {type(error).__name__}"
                              f"{': ' + lines[-1] if lines else ''}. {instead}") from error
        parts = list(found) if isinstance(found, (list, tuple)) else [found]  # MixedLoss gives its parts
        # LovaszSoftmaxLoss gives an empty tensor for a batch without a labelled pixel.
        parts = [part if part.size else logits.mean() * 0.0 for part in parts]
        first, *others = (_scalar(part, section["type"], where) for part in parts)
        return sum(others, first)

    return scalar


def _check_inputs(section: Mapping[str, Any], where: str) -> None:
    reads = OTHER_INPUTS.get(section["type"], "edges" if section.get("edge_label") else None)
    if reads is not None:
        raise ConfigError(f"{where}.type: {section['type']!r} reads {reads}; there are logits (B, C, H, W) and labels "
                          f"(B, H, W). Write {PIXELWISE}")
    for i, part in enumerate(section.get("losses") or []):
        if isinstance(part, Mapping) and "type" in part:
            _check_inputs(part, f"{where}.losses[{i}]")


def _scalar(value: paddle.Tensor, name: str, where: str) -> paddle.Tensor:
    if value.size != 1:
        raise ConfigError(f"{where}: {name} gives {list(value.shape)} values; expected one. Leave its `reduction` out.")
    return value.reshape([])
