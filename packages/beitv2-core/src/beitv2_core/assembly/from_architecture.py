# SPDX-License-Identifier: Apache-2.0
"""Models from an architecture dictionary (`weights.architecture`), and the names and shapes of their tensors."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import CheckpointError, ConfigError, ShapeError
from ..layers.init import without_values
from ..weights.kind import Kind, Shapes
from .kinds import find_kind


def build_described(kind: str, architecture: Mapping[str, Any]) -> Any:
    """The model of a kind and architecture, freshly initialised, in training mode.

    Raises ConfigError where no installed package knows the kind, CheckpointError where neither the weights nor whoever
    converted them told something the model needs: it is asked for, never guessed.
    """
    found = find_kind(kind)
    missing = found.unknown(architecture)
    if missing:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise CheckpointError(f"{', '.join(missing)} of this {kind} model is not in its weights. Convert the file with "
                              f"{flags}, as it was trained.")
    return found.build(architecture)


def shapes_of(kind: Kind, architecture: Mapping[str, Any]) -> Shapes:
    """Name and shape of every tensor a model of that kind and architecture holds, from the model itself.

    It is built without values, which takes no memory for weights.  Raises CheckpointError where there is no such model,
    and what the model's own constructor does (TypeError, KeyError) for a dictionary that is no architecture.
    """
    return _shapes_of(kind, json.dumps(kind.filled(architecture), sort_keys=True))


@functools.lru_cache(maxsize=64)
def _shapes_of(kind: Kind, architecture: str) -> Shapes:
    try:
        with without_values():
            model = kind.build(json.loads(architecture))
            return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    except (ConfigError, ShapeError) as error:
        raise CheckpointError(f"its tensors are of no {kind.name} model there could be: {error}") from None


def count_parameters(build: Callable[[], Any]) -> int:
    """How many numbers training can change in the model that `build` gives; it is built without values."""
    with without_values():
        return sum(math.prod(tensor.shape) for tensor in build().parameters() if not tensor.stop_gradient)
