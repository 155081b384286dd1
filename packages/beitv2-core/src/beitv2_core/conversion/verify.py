# SPDX-License-Identifier: Apache-2.0
"""Compare a converted model with its source: tensors, and outputs on fixed images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle

from ..assembly.from_architecture import build_described
from ..assembly.kinds import find_kind
from ..assembly.loaded_weights import Hints, read_model
from ..assembly.restore import freeze, set_weights
from ..errors import CheckpointError
from ..weights.identify import IdentifiedWeights, identical
from ..weights.places import flat
from ..weights.reading.foreign import read_state
from .convert import backbone_of, resize_model, state_in_origin
from .reference import torch_output


class Difference(NamedTuple):
    """One comparison: the largest absolute difference and what is allowed (0: bit for bit)."""

    name: str
    largest: float
    limit: float

    @property
    def holds(self) -> bool:
        """Within the limit; NaN is not."""
        return bool(self.largest <= self.limit)


class Verdict(NamedTuple):
    """The comparisons of a model.  reference: the code or the file that the expected values come from."""

    kind: str
    reference: str
    differences: list[Difference]

    @property
    def holds(self) -> bool:
        """Every comparison is within its limit."""
        return all(difference.holds for difference in self.differences)


def verify_file(ours: str | Path, against: str | Path, *, tolerance: float = 1e-4,
                hints: Hints | None = None) -> Verdict:
    """Compare the model in `ours` (a converted file, a run) with its source `against`.

    Always: every tensor with the source's, under our names; where `ours` came from a file of that format, every tensor
    of the file with the result of converting back, unused ones included.  Position terms of another image size are
    compared after the source's were resized to it; a trunk written alone, with the source's trunk.
    Then the outputs on fixed images (a normal sample of seed 0, two of them; uniform in [0, 1] for a tokenizer):
    - against a folder of transformers: its own class, on the folder itself;
    - for a model timm or transformers have a class for: that class holding the source's weights, where installed,
      within `tolerance` absolute;
    - otherwise only whether every output is finite, as `reference` then states.
    Raises CheckpointError for files that cannot be read or hold different kinds.
    """
    hints = hints or Hints()
    found = read_model(ours, hints)
    source = read_model(against, hints)
    alone = found.kind == "backbone" != source.kind
    if alone:
        source = backbone_of(source)
    if source.kind != found.kind:
        raise CheckpointError(f"{against}: this is {find_kind(source.kind)}, {ours} is {find_kind(found.kind)}. Give "
                              "the file it was converted from.")
    resized = _image_size(source) != _image_size(found)
    differences = []
    if resized:
        source = resize_model(source, _image_size(found))
    elif not alone and source.origin == found.origin != "ours" and Path(against).is_file():
        differences.append(_given_back(found, source, Path(against)))
    differences.append(compare_tensors(found.weights, source.weights))
    model = build(found, str(ours))
    inputs = fixed_inputs(found)
    outputs = outputs_of(found.kind, model, inputs)
    del model
    name, expected = torch_output(source, None if resized or alone else Path(against), inputs[0])
    for i, (key, value) in enumerate(outputs.items()):
        if i == 0 and expected is not None:
            differences.append(compare(key, value, expected, tolerance))
        else:
            differences.append(Difference(f"{key} finite", 0.0 if np.isfinite(value).all() else np.inf, 0.0))
    return Verdict(found.kind, name, differences)


def build(found: IdentifiedWeights, source: str) -> Any:
    """The model of an identified file with its weights, frozen, in eval mode."""
    model = build_described(found.kind, found.architecture, source)
    set_weights(model, found.weights, source)
    return freeze(model)


def fixed_inputs(found: IdentifiedWeights, count: int = 2) -> list[np.ndarray]:
    """Images (count, C, H, W) float32 of the model's size, the same every time."""
    rng = np.random.RandomState(0)
    height, width = _image_size(found)
    kind = find_kind(found.kind)
    shape = (count, kind.trunk_of(found.architecture).get("in_chans", 3), height, width)
    return [(rng.random_sample(shape) if kind.unit_range else rng.standard_normal(shape)).astype(np.float32)]


def outputs_of(kind: str, model: Any, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs of a model of a kind (`Kind.outputs`), by name.

    inputs: images (B, C, H, W), and the kind's further inputs: for pretraining a mask (B, N).
    """
    with paddle.no_grad():
        answers = find_kind(kind).outputs(model, [paddle.to_tensor(array) for array in inputs])
    return {name: value.numpy() for name, value in answers.items()}


def _image_size(found: IdentifiedWeights) -> tuple[int, int]:
    size = find_kind(found.kind).trunk_of(found.architecture)["image_size"]
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _given_back(found: IdentifiedWeights, source: IdentifiedWeights, against: Path) -> Difference:
    tensors, behind = flat(read_state(against)[0]), len(source.container) + 1 if source.container else 0
    file = {name[behind:]: array for name, array in tensors.arrays.items()
            if tensors.container[name] == source.container}
    back = state_in_origin(found)
    wrong = [name for name in {**file, **back}
             if name not in file or name not in back or not identical(back[name], file[name])]
    where = f"; first: {wrong[0]}" if wrong else ""
    return Difference(f"{len(file)} tensors of the file, converted back{where}", float(len(wrong)), 0.0)


def compare_tensors(ours: Mapping[str, np.ndarray], source: Mapping[str, np.ndarray]) -> Difference:
    """The weights of two models, bit for bit."""
    if set(ours) != set(source):
        name = sorted(set(ours) ^ set(source))[0]
        return Difference(f"tensors: {name} is in one only", np.inf, 0.0)
    worst, where = 0.0, ""
    least = float(np.finfo(np.float32).tiny)
    for name, array in ours.items():
        if identical(array, source[name]):
            continue
        same_shape = array.shape == source[name].shape
        difference = float(np.abs(array.astype(np.float64) - source[name]).max()) if same_shape else np.inf
        # Equal numbers with other bits (another type, -0.0) differ too, if by nothing one could print.
        difference = difference if difference > 0 else least
        if not difference <= worst:
            worst, where = difference, f"; largest in {name}"
    return Difference(f"{len(ours)} tensors of the model{where}", worst, 0.0)


def compare(name: str, got: np.ndarray, expected: np.ndarray, limit: float) -> Difference:
    """Two arrays, by their largest absolute difference."""
    if got.shape != expected.shape:
        return Difference(f"{name} {got.shape} instead of {expected.shape}", np.inf, limit)
    return Difference(name, float(np.abs(got.astype(np.float64) - expected).max()), limit)
