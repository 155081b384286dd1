# SPDX-License-Identifier: Apache-2.0
"""An exponential moving average of a model's weights."""

from __future__ import annotations

from typing import Any

import paddle
from numpy.typing import NDArray
from paddle import nn


class WeightAverage:
    """`average <- decay * average + (1 - decay) * weights` after every step, over all of the state dict.

    Source: timm model_ema.py, ModelEma, as the official fine-tuning offers it (off in the paper's recipes).
    """

    def __init__(self, model: nn.Layer, decay: float):
        self.model, self.decay = model, decay
        self.average = {name: value.clone() for name, value in model.state_dict().items()}

    @paddle.no_grad()
    def update(self) -> None:
        """Update the averages by one step."""
        for name, value in self.model.state_dict().items():
            average = self.average[name]
            moved = average * self.decay + value * (1 - self.decay) if average.is_floating_point() else value
            self.average[name] = moved.detach()

    def state(self) -> dict[str, NDArray[Any]]:
        """The averages as arrays."""
        return {name: value.numpy() for name, value in self.average.items()}

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Take back what `state` gave."""
        self.average = {name: paddle.to_tensor(state[name]) for name in self.average}

    def swap(self) -> None:
        """Exchange the model's weights and the averages; a second call restores both."""
        weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.set_state_dict(self.average)
        self.average = weights
