# SPDX-License-Identifier: Apache-2.0
"""One small model of every kind under the official names, from the golden fixtures, as files to convert."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
from golden_io import golden_files, group, load_golden

from beitv2_core.assembly.loaded_weights import Hints, identify_weights, read_model
from beitv2_core.conversion.verify import Difference, build, compare, compare_tensors, outputs_of
from beitv2_core.weights.writers import write_torch

#: subject of a fixture, where its weights are, the kind of model
SUBJECTS = [("finetune", "init", "classifier"), ("vqkd", "init", "tokenizer"), ("pretrain_cls", "init", "pretraining"),
            ("pretrain_v1", "init", "pretraining"), ("upernet_model", "init", "segmentation"),
            ("teachers", "clip/state", "clip"), ("teachers", "dino/state", "dino")]


#: inputs (images, mask) and expected outputs of a fixture, in the order a kind gives them
RECORDED = {
    "classifier": (["input/step1/x_raw"], ["output/eval/logits"]),
    "pretraining": (["input/step1/x", "input/step1/mask"],
                    ["output/step1/masked_logits_1", "output/step1/masked_logits_2"]),
    "tokenizer": (["input/step1/image"], ["output/step1/to_quantizer_features", "output/step1/token_ids",
                                          "output/step1/rec"]),
    "segmentation": (["input/x"], ["eval/logits_train_size"]),
    "clip": (["scaling/clip"], ["clip/target"]),
    "dino": (["scaling/imagenet"], ["dino/patch_tokens"]),
}
PACKAGES = {"classifier": "beitv2_cls", "segmentation": "beitv2_seg"}
LIMIT = 1e-5  # absolute, and relative to the largest value: what the recorded values' README allows


class Model(NamedTuple):
    """Official weights of a small model and what they do not tell."""

    fixture: Path
    kind: str
    state: dict[str, np.ndarray]
    hints: Hints

    def write(self, folder: Path) -> Path:
        """The official file, `model.pth`."""
        path = folder / "model.pth"
        write_torch(path, self.state, "model")
        return path


def missing(kind: str) -> str:
    """The package that a model of this kind is built by, where it is not installed, as a reason; else empty."""
    package = PACKAGES.get(kind)
    return f"{package} is not installed" if package and importlib.util.find_spec(package) is None else ""


def models(folder: Path) -> list[Model]:
    """A model for every fixture of the subjects in a folder."""
    found = []
    for subject, part, kind in SUBJECTS:
        for path in golden_files(folder, subject):
            arrays, meta = load_golden(path)
            config = meta["config"]
            values = {"num_heads": config.get("heads") or config.get(f"{kind}_heads"),
                      "early_layers": config.get("early_layers") if kind == "pretraining" else None}
            hints = Hints(values={name: value for name, value in values.items() if value is not None})
            found.append(Model(path, kind, group(arrays, part), hints))
    return found


def against_recorded(path: Path, model: Model) -> list[Difference]:
    """A converted file's tensors and outputs, compared with what the official code recorded for a model."""
    found = read_model(path)
    arrays, meta = load_golden(model.fixture)
    inputs, expected = RECORDED[model.kind]
    source = identify_weights(model.state, model.hints)
    network = build(found, str(path))
    if model.kind == "tokenizer":
        network.input_range = "imagenet" if "imagenet" in meta["config"]["process_type"] else "unit"
    outputs = outputs_of(found.kind, network, [arrays[name] for name in inputs])
    differences = [compare_tensors(found.weights, source.weights)]
    for (name, value), key in zip(outputs.items(), expected):
        limit = 0.0 if arrays[key].dtype.kind in "iu" else LIMIT * (1 + float(np.abs(arrays[key]).max()))
        differences.append(compare(name, value, arrays[key], limit))
    return differences


def assert_same_tensors(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """The same names, types, shapes and bytes."""
    assert set(got) == set(expected)
    for name, array in expected.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
        assert got[name].tobytes() == array.tobytes(), name
