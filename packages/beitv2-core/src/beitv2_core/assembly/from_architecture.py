# SPDX-License-Identifier: Apache-2.0
"""Models from an architecture dictionary (`weights.architecture`), and the names and shapes of their tensors."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError, ShapeError
from ..layers.init import without_values
from ..weights.kind import Kind, Shapes
from .kinds import find_kind


def build_described(kind: str, architecture: Mapping[str, Any], source: str | Path) -> Any:
    """The model of a kind and architecture, freshly initialised, in training mode; source: where they were read.

    Raises ConfigError where no installed package knows the kind, CheckpointError naming a value that the model needs
    and neither the weights nor the user told: it is never guessed.
    """
    found = find_kind(kind)
    missing = found.unknown(architecture)
    if missing:
        options = " ".join(f"--set {name}={found.untold[name].example}" for name in missing)
        raise CheckpointError(f"{source}: {', '.join(missing)} of this {kind} model is not in its weights. Convert the "
                              f"file by `beitv2 convert` with the value it was trained with, for example {options}.")
    return found.build(architecture)


def shapes_of(kind: Kind, architecture: Mapping[str, Any]) -> Shapes:
    """Name and shape of every tensor of a model of that kind and architecture, from the model itself.

    The model is built without values, which takes no memory for weights.  Raises CheckpointError where no such model
    can be built, and the constructor's errors (TypeError, KeyError) for a dictionary that is no architecture.
    """
    return _shapes_of(kind, json.dumps(kind.filled(architecture), sort_keys=True))


@functools.lru_cache(maxsize=64)
def _shapes_of(kind: Kind, architecture: str) -> Shapes:
    try:
        with without_values():
            model = kind.build(json.loads(architecture))
            return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    except (ConfigError, ShapeError) as error:
        raise CheckpointError(f"no {kind.name} model can have tensors of these shapes: {error}") from None


def count_parameters(build: Callable[[], Any]) -> int:
    """Number of trainable parameters of the model that `build` returns; it is built without values."""
    with without_values():
        return sum(math.prod(tensor.shape) for tensor in build().parameters() if not tensor.stop_gradient)
