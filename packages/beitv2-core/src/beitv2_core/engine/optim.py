# SPDX-License-Identifier: Apache-2.0
"""Optimizers with the official parameter groups, and their state by structured names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import paddle
from numpy.typing import NDArray
from paddle import nn

from beitv2_core.engine.sharding import ShardedOptimizer, gather_state
from beitv2_core.errors import CheckpointError, ConfigError

#: group entry: whether the scheduled weight decay applies
DECAYS = "beitv2_decays"


def parameter_groups(model: nn.Layer, *, weight_decay: float, no_decay: Iterable[str] = (),
                     lr_scale: Callable[[str], float] | None = None, decay_all: bool = False) -> list[dict[str, Any]]:
    """Trainable parameters in groups of equal weight decay and learning-rate scale, in order of first appearance.

    No decay for 1-D parameters, names ending in ".bias" and the names in `no_decay` (`mask_token` and relative position
    bias tables do decay); with `decay_all` everything decays.  `lr_scale(name)`: factor of the learning rate (layer
    decay); default 1.
    Source: official optim_factory.py, get_parameter_groups.
    """
    skip = set(no_decay)
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.stop_gradient:
            continue
        decays = decay_all or not (parameter.ndim <= 1 or name.endswith(".bias") or name in skip)
        scale = 1.0 if lr_scale is None else float(lr_scale(name))
        group = groups.setdefault((decays, scale), {
            "params": [], "weight_decay": weight_decay if decays else 0.0, "learning_rate": scale, DECAYS: decays})
        group["params"].append(parameter)
    return list(groups.values())


def layer_of(name: str, depth: int, *, trunk: str = "") -> int:
    """Number of the layer a parameter belongs to: embeddings 0, block i is i + 1, everything after depth + 1.

    trunk: beginning of the names of the trunk's parameters ("backbone." where the trunk is a part of the model).
    Source: official optim_factory.py, and mmcv_custom/layer_decay_optimizer_constructor.py, get_num_layer_for_vit.
    """
    inner = name[len(trunk):] if name.startswith(trunk) else ""
    if inner in ("cls_token", "mask_token", "pos_embed") or inner.startswith("patch_embed"):
        return 0
    if inner.startswith("blocks."):
        return int(inner.split(".")[1]) + 1
    return depth + 1


def layer_decay_scale(depth: int, decay: float, *, trunk: str = "") -> Callable[[str], float]:
    """The factor of the learning rate by parameter name: decay ** (depth + 1 - layer).

    Source: official run_class_finetuning.py, LayerDecayValueAssigner.
    """
    return lambda name: decay ** (depth + 1 - layer_of(name, depth, trunk=trunk))


def build_optimizer(kind: str, model: nn.Layer, *, lr: float, weight_decay: float,
                    betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, momentum: float = 0.9,
                    no_decay: Iterable[str] = (), lr_scale: Callable[[str], float] | None = None,
                    decay_all: bool = False) -> Any:
    """A Paddle optimizer over `parameter_groups`: "adamw" (decoupled decay), "adam" or "sgd" (L2 decay, momentum).

    The learning rate is set per step by `set_lr`, the decay by `set_weight_decay`.  Clipping is not the optimizer's
    (`step.clip_by_global_norm`).  Raises ConfigError for another kind or a model with nothing to train.
    """
    groups = parameter_groups(model, weight_decay=weight_decay, no_decay=no_decay, lr_scale=lr_scale,
                              decay_all=decay_all)
    if not groups:
        raise ConfigError("build_optimizer: the model has no trainable parameter. Unfreeze what should be trained.")
    if kind == "adamw":
        return paddle.optimizer.AdamW(lr, betas[0], betas[1], eps, parameters=groups, weight_decay=weight_decay)
    if kind == "adam":
        return paddle.optimizer.Adam(lr, betas[0], betas[1], eps, parameters=_with_l2(groups))
    if kind == "sgd":
        return paddle.optimizer.Momentum(lr, momentum, parameters=_with_l2(groups))
    raise ConfigError(f"optim.kind: {kind!r} is not known. Known kinds: adamw, adam, sgd.")


def _with_l2(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for group in groups:
        group["weight_decay"] = paddle.regularizer.L2Decay(group["weight_decay"])
    return groups


def set_weight_decay(optimizer: Any, value: float) -> None:
    """Give the groups that decay a new weight decay."""
    for group in optimizer._param_groups:  # Paddle has no public way to change a group
        if isinstance(group, dict) and group.get(DECAYS):  # groups of other optimizers can be bare parameters
            if isinstance(group["weight_decay"], paddle.regularizer.L2Decay):
                group["weight_decay"] = paddle.regularizer.L2Decay(value)
            else:
                group["weight_decay"] = value


def optimizer_state(optimizer: Any, model: nn.Layer) -> dict[str, NDArray[Any]]:
    """Moments and powers as {"<accumulator>/<structured name>": array}.

    Paddle keys them by automatic parameter names, which depend on how many layers were built before: useless on resume.
    A sharded optimizer's are gathered in the main process ({} elsewhere): every process must call this then.
    """
    if isinstance(optimizer, ShardedOptimizer):
        return gather_state(optimizer_state(optimizer.inner, model))
    return {name: tensor.numpy() for name, tensor in moments(optimizer, model).items()}


def moments(optimizer: Any, model: nn.Layer) -> dict[str, paddle.Tensor]:
    """The optimizer's own tensors, named as in `optimizer_state`; of a sharded one those that this process keeps."""
    by_name = {parameter.name: structured for structured, parameter in model.named_parameters()}
    return {f"{kind}/{by_name[name]}": tensor for kind, accumulators in optimizer._accumulators.items()
            for name, tensor in accumulators.items()}


def forget_moments(optimizer: Any) -> None:
    """Make an optimizer as it is before its first step, when it has no moments yet."""
    optimizer._accumulators.clear()
    for known in ("_already_create_accumulator", "_already_create_accumulater"):  # Paddle 3, Paddle 2.6
        getattr(optimizer, known, set()).clear()


def load_optimizer_state(optimizer: Any, model: nn.Layer, state: dict[str, NDArray[Any]]) -> None:
    """Put back what `optimizer_state` gave, into an optimizer of the same kind over the same parameters.

    Raises CheckpointError listing what is missing or left over.
    """
    if not state:
        return
    own = None
    if isinstance(optimizer, ShardedOptimizer):
        optimizer, own = optimizer.inner, optimizer.owns
    if not hasattr(optimizer, "helper") or optimizer.helper is None:
        # Paddle 2.6 makes its helper only at the first step; the accumulators are needed before.
        optimizer.helper = paddle.base.layer_helper.LayerHelper(type(optimizer).__name__)
    trainable = [parameter for name, parameter in model.named_parameters()
                 if not parameter.stop_gradient and (own is None or own(name))]
    if own is not None:  # the parts of the other processes
        others = {name for name, parameter in model.named_parameters() if not parameter.stop_gradient and not own(name)}
        state = {key: value for key, value in state.items() if key.partition("/")[2] not in others}
    optimizer._create_accumulators(paddle.base.framework.default_main_program().global_block(), trainable)
    wanted = moments(optimizer, model)
    if set(wanted) != set(state):
        missing, extra = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
        raise CheckpointError(
            f"optimizer state does not fit: {len(missing)} missing ({', '.join(missing[:3])}), {len(extra)} left over "
            f"({', '.join(extra[:3])}). Resume with the optimizer and model the checkpoint was made with."
        )
    for key, tensor in wanted.items():
        tensor.set_value(state[key].astype(tensor.numpy().dtype, copy=False).reshape(tensor.shape))
