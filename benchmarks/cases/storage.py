# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the base pretraining model with AdamW's moments, from tensors to the disk and back."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from harness.timing import timed

from cases.pretraining import build_pretraining
from cases.setting import step_of


def checkpoint() -> dict[str, Any]:
    """Saving hashes and syncs every file, loading checks the hashes; the files lie in the temporary folder."""
    model, optimizer, loss_of = build_pretraining(batch=1)
    from beitv2_core.checkpoint.store import CheckpointStore
    from beitv2_core.engine.optim import load_optimizer_state, optimizer_state

    step_of(optimizer, lambda: loss_of(model))()  # AdamW has its moments from the first step on
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(folder)

        def save() -> Path:
            weights = {name: value.numpy() for name, value in model.state_dict().items()}
            return store.save(1, weights, optimizer_state(optimizer, model), {}, {})

        def load() -> None:
            found = store.load(path)
            model.set_state_dict(found.weights)
            load_optimizer_state(optimizer, model, found.optimizer)

        path = save()
        size = sum(file.stat().st_size for file in path.iterdir())
        return {"bytes": size, "save": timed(save, 3, warm_up=0), "load": timed(load, 3)}
