# SPDX-License-Identifier: Apache-2.0
"""Does a converted model compute what its source computes?  Compared, and said which way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle

from ..assembly.from_architecture import build_described
from ..assembly.loaded_weights import Hints, read_model
from ..assembly.restore import freeze, set_weights
from ..errors import CheckpointError
from ..weights.formats import trunk_alone
from ..weights.kinds import Recognised, identical, recognise
from ..weights.places import flat
from ..weights.reading.foreign import read_state
from .convert import resize_model, state_in_origin
from .reference import torch_outputs

GOLDEN_LIMIT = 1e-5  # absolute, and relative to the largest value: what the recorded values' README allows
#: what a recorded fixture holds of each kind: weights, inputs (images, mask) and the outputs in our order
_GOLDENS = {
    "classifier": ("init", ["input/step1/x_raw"], ["output/eval/logits"]),
    "pretraining": ("init", ["input/step1/x", "input/step1/mask"],
                    ["output/step1/masked_logits_1", "output/step1/masked_logits_2"]),
    "tokenizer": ("init", ["input/step1/image"], ["output/step1/to_quantizer_features",
                                                   "output/step1/token_ids", "output/step1/rec"]),
    "segmentation": ("init", ["input/x"], ["eval/logits_train_size"]),
    "clip": ("clip/state", ["scaling/clip"], ["clip/target"]),
    "dino": ("dino/state", ["scaling/imagenet"], ["dino/patch_tokens"]),
}


class Difference(NamedTuple):
    """One comparison: the largest absolute difference and what is allowed (0: bit for bit)."""

    name: str
    largest: float
    limit: float

    @property
    def holds(self) -> bool:
        """Within the limit; no number at all does not hold."""
        return bool(self.largest <= self.limit)


class Verdict(NamedTuple):
    """What was compared with what.  reference: the code or the file that gave the expected values."""

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
    of the file with what conversion gives back, dead ones included.  Position terms of another image size are
    compared after the source's were fitted to it; a trunk written alone with the source's trunk.
    Then the outputs on fixed images (a normal sample of seed 0, two of them; uniform in [0, 1] for a tokenizer):
    - against a recorded fixture (.npz beside .json): its images and outputs, within 1e-5 + 1e-5 of the largest;
    - against a folder of transformers: its own class, on the folder itself;
    - classifier, backbone, pretraining without [CLS] head: timm's or transformers' class holding the source's weights,
      where installed, within `tolerance` absolute;
    - otherwise only that every output is a finite number; `reference` says so.
    Raises CheckpointError for files that cannot be read or hold different kinds.
    """
    hints = hints or Hints()
    found = read_model(ours, hints)
    if Path(against).suffix == ".npz":
        return _against_golden(found, Path(against), str(ours))
    source = read_model(against, hints)
    alone = found.kind == "backbone" != source.kind
    if alone:
        source = Recognised("backbone", source.origin, *trunk_alone(source.kind, source.weights, source.architecture))
    if source.kind != found.kind:
        raise CheckpointError(f"{against}: this is a {source.kind} model, {ours} is a {found.kind} model. Give the "
                              "file it was converted from.")
    resized = _image_size(source) != _image_size(found)
    differences = []
    if resized:
        source = resize_model(source, _image_size(found))
    elif not alone and source.origin == found.origin != "ours" and Path(against).is_file():
        differences.append(_given_back(found, source, Path(against)))
    differences.append(_tensors(found.weights, source.weights))
    model = build(found, str(ours))
    inputs = fixed_inputs(found)
    outputs = outputs_of(found.kind, model, inputs)
    del model
    name, expected = torch_outputs(source, None if resized or alone else Path(against), inputs)
    differences += [_difference(key, outputs[key], expected[key], tolerance) for key in expected]
    differences += [Difference(f"{key} finite", 0.0 if np.isfinite(value).all() else np.inf, 0.0)
                    for key, value in outputs.items() if key not in expected]
    return Verdict(found.kind, name, differences)


def build(found: Recognised, source: str) -> Any:
    """The model of a recognised file with its weights, frozen, in eval mode."""
    model = build_described(found.kind, found.architecture)
    set_weights(model, found.weights, source)
    return freeze(model)


def fixed_inputs(found: Recognised, count: int = 2) -> list[np.ndarray]:
    """Images (count, C, H, W) float32 of the model's size, the same every time."""
    rng = np.random.RandomState(0)
    height, width = _image_size(found)
    shape = (count, _trunk(found).get("in_chans", 3), height, width)
    return [(rng.random_sample(shape) if found.kind == "tokenizer" else rng.standard_normal(shape)).astype(np.float32)]


def outputs_of(kind: str, model: Any, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    """What a model of a kind answers: logits, features, codes and what they decode to, by name.

    inputs: images (B, C, H, W), and for pretraining a mask (B, N) where only hidden patches are asked for.
    """
    tensors = [paddle.to_tensor(array) for array in inputs]
    with paddle.no_grad():
        if kind == "tokenizer":
            codes = model.tokenize(tensors[0])
            return {"features": model.features(tensors[0]).numpy(), "codes": codes.numpy(),
                    "decoded": model.decode(codes).numpy()}
        if kind == "pretraining":
            answers = model(tensors[0], tensors[1].astype("bool")) if len(tensors) > 1 else model.all_logits(tensors[0])
            return {f"{head} logits": value.numpy() for head, value in answers.items()}
        answer = model(tensors[0])
        answer = answer[0] if isinstance(answer, list) else answer
        return {"logits" if kind in ("classifier", "segmentation") else "features": answer.numpy()}


def _against_golden(found: Recognised, path: Path, ours: str) -> Verdict:
    try:
        meta = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
        part, inputs, expected = _GOLDENS[found.kind]
        images = [arrays[name] for name in inputs]
        config = meta["config"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: holds no recorded {found.kind} outputs ({type(error).__name__}: {error}). Give "
                              "a fixture of that kind, with its .json beside it.") from None
    state = {name[len(part) + 1:]: array for name, array in arrays.items() if name.startswith(part + "/")}
    source = recognise(state, num_heads=config.get("heads") or config.get(f"{found.kind}_heads"),
                       early_layers=config.get("early_layers"))
    model = build(found, ours)
    if found.kind == "tokenizer":
        model.input_range = "imagenet" if "imagenet" in config["process_type"] else "unit"
    outputs = outputs_of(found.kind, model, images)
    differences = [_tensors(found.weights, source.weights)]
    for (name, value), key in zip(outputs.items(), expected):
        limit = 0.0 if arrays[key].dtype.kind in "iu" else GOLDEN_LIMIT * (1 + float(np.abs(arrays[key]).max()))
        differences.append(_difference(name, value, arrays[key], limit))
    return Verdict(found.kind, f"values recorded from the official code ({path.name})", differences)


def _trunk(found: Recognised) -> Mapping[str, Any]:
    architecture = found.architecture
    return architecture.get("encoder") or architecture.get("backbone") or architecture


def _image_size(found: Recognised) -> tuple[int, int]:
    size = _trunk(found)["image_size"]
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _given_back(found: Recognised, source: Recognised, against: Path) -> Difference:
    tensors, behind = flat(read_state(against)[0]), len(source.container) + 1 if source.container else 0
    file = {name[behind:]: array for name, array in tensors.arrays.items()
            if tensors.container[name] == source.container}
    back = state_in_origin(found)
    wrong = [name for name in {**file, **back}
             if name not in file or name not in back or not identical(back[name], file[name])]
    where = f"; first: {wrong[0]}" if wrong else ""
    return Difference(f"{len(file)} tensors of the file given back{where}", float(len(wrong)), 0.0)


def _tensors(ours: Mapping[str, np.ndarray], source: Mapping[str, np.ndarray]) -> Difference:
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


def _difference(name: str, got: np.ndarray, expected: np.ndarray, limit: float) -> Difference:
    if got.shape != expected.shape:
        return Difference(f"{name} {got.shape} instead of {expected.shape}", np.inf, limit)
    return Difference(name, float(np.abs(got.astype(np.float64) - expected).max()), limit)
