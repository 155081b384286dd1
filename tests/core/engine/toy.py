# SPDX-License-Identifier: Apache-2.0
"""A tiny method with dropout, state of its own and a resumable loader, for tests of the loop; also a script to kill.

    python toy.py FOLDER STEPS SAVE_EVERY
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn

import beitv2_core  # noqa: F401  before paddle
from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.engine.loop import TrainLoop
from beitv2_core.engine.optim import build_optimizer
from beitv2_core.engine.run_folder import RunFolder
from beitv2_core.engine.schedule import step_schedule
from beitv2_core.engine.task import Task


class Batch(NamedTuple):
    x: np.ndarray
    paths: list


class ToyLoader:
    steps_per_epoch = 7

    def __init__(self, size: int = 8, images: str | None = None):
        self.position, self.size, self.images = 0, size, images

    def identity(self) -> str | None:
        return self.images

    def __iter__(self):
        while True:
            x = np.random.RandomState(self.position).randn(self.size, 6).astype("float32")
            self.position += 1
            yield Batch(x, [f"image_{self.position}"])

    def state(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


class ToyTask(Task):
    finished = False

    def __init__(self, model: nn.Layer, poison: int | None = None):
        self.model = self.network = model
        self.seen, self.poison = 0.0, poison

    def loss(self, batch, *, step):
        x = paddle.to_tensor(batch.x)
        if step == self.poison:
            x = x * float("nan")
        self.seen += float(np.random.rand())  # the loop seeds numpy per step
        loss = ((self.network(x) - 1) ** 2).mean()
        return loss, {"acc": paddle.zeros([]) + 0.5}

    def log_values(self):
        return {"seen": self.seen}

    def state(self):
        return {"seen": self.seen, "array": np.array([self.seen])}

    def load_state(self, state):
        self.seen = state["seen"]


def make_loop(folder: Path, *, steps: int = 20, save_every: int = 5, poison: int | None = None, dropout: float = 0.3,
              accumulate: int = 1, batch: int = 8, config: dict | None = None, loader: Any = None,
              **more: Any) -> TrainLoop:
    paddle.seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(dropout), nn.GELU(), nn.Linear(16, 1))
    run = RunFolder(folder)
    return TrainLoop(ToyTask(model, poison), loader or ToyLoader(batch),
                     build_optimizer("adamw", model, lr=1e-2, weight_decay=0.1),
                     lr=step_schedule(1e-2, 1e-4, total_steps=steps, warmup_steps=3),
                     weight_decay=step_schedule(0.1, 0.2, total_steps=steps), run=run,
                     store=CheckpointStore(run.checkpoints, keep_last=2), config=config or {"seed": 1, "steps": steps},
                     seed=1, images_per_step=batch * accumulate, clip_norm=1.0, accumulate=accumulate, log_every=4,
                     save_every=save_every, **more)


if __name__ == "__main__":
    make_loop(Path(sys.argv[1]), steps=int(sys.argv[2]), save_every=int(sys.argv[3])).run("auto")
