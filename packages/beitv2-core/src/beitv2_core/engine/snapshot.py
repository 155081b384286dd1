# SPDX-License-Identifier: Apache-2.0
"""The state of a run between two steps, kept in memory: to compute a step again, or to go back to where a run began."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import paddle
from numpy.typing import NDArray

from beitv2_core.engine.optim import forget_moments, moments
from beitv2_core.engine.step import Precision
from beitv2_core.engine.task import Task


class Snapshot:
    """Weights, buffers, this process's moments, the task's and the loss scaler's state, as arrays in the main memory.

    Random generators start anew from (seed, step) at every step and have no state of their own.
    """

    def __init__(self, task: Task, optimizer: Any, precision: Precision):
        self.task, self.optimizer, self.precision = task, optimizer, precision
        self.arrays = {name: _kept(value) for name, value in self._tensors().items()}
        self.fresh = not moments(optimizer, task.model)
        self.state = copy.deepcopy(self._state())
        self._counts = _cache_counts(task)

    def _tensors(self) -> dict[str, paddle.Tensor]:
        return {**self.task.model.state_dict(), **moments(self.optimizer, self.task.model)}

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.task.state(), self.precision.state()

    @paddle.no_grad()
    def restore(self) -> None:
        """Make everything what it was."""
        if self.fresh:
            forget_moments(self.optimizer)
        for name, tensor in self._tensors().items():
            tensor.set_value(self.arrays[name])
        task_state, scaler = copy.deepcopy(self.state)
        self.task.load_state(task_state)
        self.precision.load_state(scaler)
        if self._counts is not None:
            self.task.cache.hits, self.task.cache.misses = self._counts  # type: ignore[attr-defined]

    def differences(self) -> list[str]:
        """The names of the tensors that have other bits now, and of other parts of the state."""
        tensors = self._tensors()
        names = [name for name in {**self.arrays, **tensors} if not (
            name in self.arrays and name in tensors and _same(self.arrays[name], np.asarray(tensors[name].numpy())))]
        then, now = ({f"{part}/{key}": value for part, one in zip(("task", "scaler"), state)
                      for key, value in one.items()} for state in (self.state, self._state()))
        return names + [name for name in {**then, **now} if not _same_state(then.get(name), now.get(name))]


def _kept(value: paddle.Tensor) -> NDArray[Any]:
    """A copy; zeros, as the moments of a new run are, take no memory (numpy asks for it when it is written)."""
    array = np.array(value.numpy())
    return array if array.reshape(-1).view(np.uint8).any() else np.zeros_like(array)  # bits: -0 is no zero


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two arrays have the same bits; NaN is NaN then, and 0 is not -0."""
    return one.shape == other.shape and bool(
        (one.reshape(-1).view(np.uint8) == other.reshape(-1).view(np.uint8)).all())


def _same_state(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and _same(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(
            _same_state(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return isinstance(other, (list, tuple)) and len(one) == len(other) and all(map(_same_state, one, other))
    return bool(one == other) or (one != one and other != other)  # NaN is NaN


def _cache_counts(task: Any) -> tuple[int, int] | None:
    """How often a task's cache was asked since the last log line; its state does not hold that."""
    cache = getattr(task, "cache", None)
    return None if cache is None else (cache.hits, cache.misses)
