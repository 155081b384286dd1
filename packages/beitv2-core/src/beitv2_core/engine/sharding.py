# SPDX-License-Identifier: Apache-2.0
"""The optimizer's state divided among the processes: each updates its share of the parameters and hands them out.

Paddle's own `group_sharded_parallel` refuses CPUs (2.6.2 and 3.3.1) and keeps its checkpoints in parts.  Here the
update of a parameter is the one it would have had, computed by one process, so that weights are equal to the bit, and
a checkpoint is whole: it can be resumed with any number of processes, with sharding or without.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from numpy.typing import NDArray
from paddle import nn

from beitv2_core.engine import distributed
from beitv2_core.errors import ConfigError
from beitv2_core.layers.collective import all_reduce_sum

log = logging.getLogger("beitv2_core")
STAGES = ("off", "stage1", "stage2")


class ShardedOptimizer:
    """A Paddle optimizer that keeps the state of this process's parameters only; everything else is the optimizer's.

    Stage 1 (ZeRO, arXiv 1910.02054): gradients are exchanged as without it; those of other processes' parameters are
    freed before the update.  Stage 2 (`reduces`): a gradient goes to its owner only, during the last backward pass, and
    is freed elsewhere at once.
    """

    def __init__(self, optimizer: Any, model: nn.Layer, *, reduces: bool):
        self.inner, self.reduces = optimizer, reduces
        self._parameters = {name: value for name, value in model.named_parameters() if not value.stop_gradient}
        self.owners = assign_owners({name: int(np.prod(value.shape)) for name, value in self._parameters.items()},
                                    distributed.world_size())
        self._reducing = False
        if reduces:
            for name, parameter in self._parameters.items():
                parameter._register_backward_hook(functools.partial(self._reduce, parameter, self.owners[name]))
        log.info("sharding: the optimizer's state of %d of %d parameter arrays is kept by this process",
                 sum(owner == distributed.rank() for owner in self.owners.values()), len(self.owners))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def owns(self, name: str) -> bool:
        """True for a parameter that this process updates."""
        return self.owners[name] == distributed.rank()

    @contextlib.contextmanager
    def last_backward(self) -> Iterator[None]:
        """Inside, gradients go to their owners as they are ready (stage 2)."""
        self._reducing = self.reduces
        try:
            yield
        finally:
            self._reducing = False

    def global_norm(self) -> paddle.Tensor:
        """L2 norm of the gradients of all owners together, a float32 scalar; the same sums as without sharding."""
        squares = [paddle.zeros([]) if value.grad is None else paddle.square(value.grad.astype("float32")).sum()
                   for value in self._parameters.values()]
        together = all_reduce_sum(paddle.stack(squares))
        return paddle.sqrt(paddle.add_n([together[i] for i in range(len(squares))]))

    def step(self) -> None:
        """Update the own parameters and exchange them."""
        for name, parameter in self._parameters.items():
            if not self.owns(name):
                parameter.clear_gradient(False)
        self.inner.step()
        self._exchange()

    @paddle.no_grad()
    def _exchange(self) -> None:
        for owner in range(distributed.world_size()):
            for dtype in dict.fromkeys(value.dtype for value in self._parameters.values()):  # one order everywhere
                owned = [value for name, value in self._parameters.items()
                         if self.owners[name] == owner and value.dtype == dtype]
                if not owned:
                    continue
                flat = paddle.concat([value.flatten() for value in owned])
                dist.broadcast(flat, src=owner)
                if owner == distributed.rank():
                    continue
                for value, part in zip(owned, paddle.split(flat, [int(np.prod(value.shape)) for value in owned])):
                    value.set_value(part.reshape(value.shape))

    @paddle.no_grad()
    def _reduce(self, parameter: paddle.Tensor, owner: int, *_: Any) -> None:
        if not self._reducing or parameter.grad is None:
            return
        dist.reduce(parameter.grad, dst=owner)
        if owner == distributed.rank():
            parameter.grad.scale_(1 / distributed.world_size())
        else:
            parameter.clear_gradient(False)


def shard_optimizer(optimizer: Any, model: nn.Layer, stage: str, amp: str = "off", *,
                    key: str = "train.sharding") -> Any:
    """The optimizer divided among the processes according to `stage`; unchanged for "off" and in a single process.

    key: the setting that errors name.  Raises ConfigError for an unknown stage, for stage 2 with a loss scaler, and for
    an optimizer that clips by the norm of all gradients itself.
    """
    if stage not in STAGES:
        raise ConfigError(f"{key}: {stage!r} is not known. Known: {', '.join(STAGES)}.")
    if stage == "stage2" and amp == "fp16":
        raise ConfigError(f"{key}: stage2 with fp16: the loss scaler must see all gradients, stage2 leaves each "
                          f"process its own. Use bf16, or {key}=stage1.")
    if stage != "off" and isinstance(getattr(optimizer, "_grad_clip", None), nn.ClipGradByGlobalNorm):
        raise ConfigError(f"{key}: {stage} with an optimizer that clips by the norm of all gradients: it would see "
                          f"those of its own process only. Leave its clipping out, or use {key}=off.")
    if stage == "off" or distributed.world_size() == 1:
        return optimizer
    return ShardedOptimizer(optimizer, model, reduces=stage == "stage2")


def assign_owners(sizes: dict[str, int], processes: int) -> dict[str, int]:
    """The owner of every parameter, so that all have about the same number of elements: largest first, to the least."""
    loads = [0] * processes
    owners = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owners[name] = loads.index(min(loads))
        loads[owners[name]] += sizes[name]
    return {name: owners[name] for name in sizes}


def gather_state(own: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The parts of all processes together, in the main process ({} elsewhere); every process must call it."""
    described: list[Any] = []
    dist.all_gather_object(described, {key: (value.shape, str(value.dtype)) for key, value in own.items()})
    together = {}
    for owner, arrays in enumerate(described):
        for key, (shape, dtype) in arrays.items():
            array = paddle.to_tensor(own[key]) if owner == distributed.rank() else paddle.empty(shape, dtype=dtype)
            dist.broadcast(array, src=owner)
            if distributed.is_main():
                together[key] = array.numpy()
    return together
