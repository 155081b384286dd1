# SPDX-License-Identifier: Apache-2.0
"""One small model of every kind under the official names, from the golden fixtures, as files to convert."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
from golden_io import golden_files, group, load_golden

from beitv2_core.conversion.convert import Hints
from beitv2_core.weights.writers import write_torch

#: subject of a fixture, where its weights are, the kind of model
SUBJECTS = [("finetune", "init", "classifier"), ("vqkd", "init", "tokenizer"), ("pretrain_cls", "init", "pretraining"),
            ("pretrain_v1", "init", "pretraining"), ("upernet_model", "init", "segmentation"),
            ("teachers", "clip/state", "clip"), ("teachers", "dino/state", "dino")]


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
    package = {"classifier": "beitv2_cls", "segmentation": "beitv2_seg"}.get(kind)
    return f"{package} is not installed" if package and importlib.util.find_spec(package) is None else ""


def models(folder: Path) -> list[Model]:
    """A model for every fixture of the subjects in a folder."""
    found = []
    for subject, part, kind in SUBJECTS:
        for path in golden_files(folder, subject):
            arrays, meta = load_golden(path)
            config = meta["config"]
            heads = config.get("heads") or config.get(f"{kind}_heads")
            found.append(Model(path, kind, group(arrays, part), Hints(None, heads, config.get("early_layers"))))
    return found


def assert_same_tensors(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """The same names, types, shapes and bytes."""
    assert set(got) == set(expected)
    for name, array in expected.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
        assert got[name].tobytes() == array.tobytes(), name
