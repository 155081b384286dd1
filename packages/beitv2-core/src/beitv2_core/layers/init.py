# SPDX-License-Identifier: Apache-2.0
"""Weight initialisation of the two official model families, from one explicit source of randomness (Paddle's).

Source: official modeling_finetune.py and modeling_pretrain.py, `_init_weights` and `fix_init_weight`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import paddle
from paddle import nn

_values = True


@contextmanager
def without_values() -> Iterator[None]:
    """Models built inside have the names and shapes of their tensors and nothing else: weights take no memory."""
    global _values
    before, _values = _values, False
    try:
        with paddle.LazyGuard():
            yield
    finally:
        _values = before


def has_values() -> bool:
    """Whether the model being built gets values; False inside `without_values`."""
    return _values


def _fill(parameter: paddle.Tensor, values: paddle.Tensor) -> None:
    parameter.set_value(values.astype(parameter.dtype))


def trunc_normal(parameter: paddle.Tensor, *, std: float = 0.02, limit: float = 2.0) -> None:
    """Fill with a normal of `std` truncated to +-`limit` (absolute).

    The fine-tuning family uses limit 2 (in effect not truncated), the pretraining family limit = std,
    so that its true standard deviation is 0.0108.
    Departs: beyond six deviations nothing is truncated by inversion; the official float32 inversion now and then rounds
    to the very end there and gives exactly +-limit (goldens init_stats: 2.0 among weights of 0.02).
    """
    if not has_values():
        return
    if limit > 6 * std:
        _fill(parameter, paddle.clip(paddle.randn(parameter.shape) * std, -limit, limit))
        return
    end = math.erf(limit / std / math.sqrt(2))
    values = paddle.erfinv(paddle.uniform(parameter.shape, min=-end, max=end)) * (std * math.sqrt(2))
    _fill(parameter, paddle.clip(values, -limit, limit))


def normal(parameter: paddle.Tensor, std: float) -> None:
    """Fill with a normal of mean 0."""
    if has_values():
        _fill(parameter, paddle.normal(0.0, std, parameter.shape))


def kaiming_uniform_default(layer: nn.Layer) -> None:
    """PyTorch's default for Linear and Conv2d: weight and bias uniform in +-1/sqrt(fan_in)."""
    if not has_values():
        return
    shape = layer.weight.shape
    fan_in = shape[0] if isinstance(layer, nn.Linear) else math.prod(shape[1:])
    bound = 1 / math.sqrt(fan_in)
    for parameter in (layer.weight, layer.bias):
        if parameter is not None:
            _fill(parameter, paddle.uniform(parameter.shape, min=-bound, max=bound))


def init_linears(module: nn.Layer, *, limit: float) -> None:
    """Linear weights truncated normal, Linear biases 0; layer norms keep 1 and 0."""
    for layer in module.sublayers(include_self=True) if has_values() else ():
        if isinstance(layer, nn.Linear):
            trunc_normal(layer.weight, limit=limit)
            if layer.bias is not None:
                _fill(layer.bias, paddle.zeros(layer.bias.shape))


def rescale_block(block: nn.Layer, layer_id: int) -> None:
    """Divide the block's two output projections by sqrt(2 * layer_id), layer_id counted from 1."""
    for weight in (block.attn.proj.weight, block.mlp.fc2.weight) if has_values() else ():
        _fill(weight, weight / math.sqrt(2.0 * layer_id))


def scale(parameter: paddle.Tensor, factor: float) -> None:
    """Multiply a parameter by a number."""
    if has_values():
        _fill(parameter, parameter * factor)
