# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint every 50 steps adds to the time of a pretraining run.

    python benchmarks/checkpoint_cost.py [FOLDER]             # base size, 150 steps, a quiet machine
    python benchmarks/checkpoint_cost.py --size tiny --steps 40 --save-every 10
    python benchmarks/checkpoint_cost.py --on-the-spot        # the training waits for every checkpoint, to compare

prints one row of JSON and leaves it in FOLDER as row.json; exit code 1 where more than 1 % was added.

The run is the real training loop over drawn images, without tokenizer, so that its steps are shorter than a real run's.
A step that was under way while a checkpoint was copied or written is compared with the median of all others; what it
took longer was added by the checkpoint.  The first step counts nowhere.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from cases.pretraining import build_pretraining

#: the most that checkpoints may add, per cent of the training time
FLOOR = 1.0
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"width": 192, "depth": 2, "num_heads": 3, "early_layers": 1},
    "base": {},
}


class Drawn:
    """Endless batches that hold nothing: the images are the model's own."""

    steps_per_epoch = 10**9

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield None

    def identity(self) -> None:
        return None

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to take back."""


def checkpoint_cost(*, size: str = "base", steps: int = 150, save_every: int = 50, batch: int = 8,
                    on_the_spot: bool = False, folder: str | Path | None = None) -> dict[str, Any]:
    """Train `steps` steps with a checkpoint every `save_every`; times in seconds, `added_percent` of the time without.

    folder: where the run is written and removed again; None: the temporary folder.
    """
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        ends, saves, written = _train(Path(place) / "run", SIZES[size], steps, save_every, batch, on_the_spot)
    return {"part": "checkpoint cost", "size": size, "batch": batch, "steps": steps, "save_every": save_every,
            "beside": not on_the_spot, "checkpoint_mb": round(written / 1e6, 1), **cost(ends, saves, save_every)}


def cost(ends: list[float], saves: list[tuple[float, float, float]], save_every: int) -> dict[str, Any]:
    """The numbers of a run; ends: when its steps ended; saves: when each copy began, its writing began and ended."""
    steps = [(one, other) for one, other in zip(ends, ends[1:])]
    within = [save for save in saves if save[2] < ends[-1]]  # not the last one, for which the end of the run waits
    if not within:
        raise SystemExit("checkpoint_cost: no checkpoint ended before the last step; take more steps.")

    def added_by(save: tuple[float, float, float]) -> float:
        return sum(other - one - usual for one, other in steps if one < save[2] and other > save[0])

    usual = statistics.median(other - one for one, other in steps
                              if not any(one < save[2] and other > save[0] for save in saves))
    added = [added_by(save) for save in within]
    saving = [next(other - one for one, other in steps if one <= save[0] < other) for save in within]
    per_cent = 100 * statistics.mean(added) / (save_every * usual)
    return {"times": len(within), "harmed": int(per_cent > FLOOR), "note": {"percent": round(per_cent, 2)},
            "median_step": round(usual, 4), "saving_step": round(statistics.median(saving), 4),
            "copy": round(statistics.median(save[1] - save[0] for save in within), 4),
            "write": round(statistics.median(save[2] - save[1] for save in within), 4),
            "added_by_each": [round(one, 4) for one in added], "added_percent": round(per_cent, 3), "floor": FLOOR}


def _train(folder: Path, size: dict[str, int], steps: int, save_every: int, batch: int,
           on_the_spot: bool) -> tuple[list[float], list[tuple[float, float, float]], int]:
    model, optimizer, loss_of = build_pretraining(batch, **size)
    from beitv2_core.checkpoint.store import CheckpointStore
    from beitv2_core.engine.loop import TrainLoop
    from beitv2_core.engine.run_folder import RunFolder
    from beitv2_core.engine.task import Task

    ends: list[float] = []
    saves: list[tuple[float, float, float]] = []
    sizes = [0]

    class Pretraining(Task):
        def __init__(self) -> None:
            self.model = self.network = model

        def loss(self, batch: Any, *, step: int) -> Any:
            return loss_of(self.network), {}

        def after_step(self, *, step: int) -> None:
            ends.append(time.perf_counter())

    class Timed(CheckpointStore):
        def save(self, *content: Any) -> Path:
            began = time.perf_counter()
            path = super().save(*content)
            saves.append((ends_at_save.pop(0), began, time.perf_counter()))
            sizes[0] = sum(file.stat().st_size for file in path.iterdir())
            return path

    ends_at_save: list[float] = []

    class Loop(TrainLoop):
        def _save(self) -> None:
            ends_at_save.append(time.perf_counter())
            super()._save()
            if on_the_spot:
                self._finish_saving()

    run = RunFolder(folder)
    Loop(Pretraining(), Drawn(), optimizer, lr=np.full(steps, 1e-4), weight_decay=np.full(steps, 0.05), run=run,
         store=Timed(run.checkpoints, keep_last=1), config={}, seed=0, images_per_step=batch, clip_norm=3.0,
         save_every=save_every, log_every=save_every).run()
    return ends, saves, sizes[0]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="base")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--save-every", type=int, default=50)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--on-the-spot", action="store_true", help="wait for every checkpoint")
    parser.add_argument("folder", nargs="?", type=Path, help="where checkpoints are written; default: a temporary one")
    asked = parser.parse_args()
    found = checkpoint_cost(**vars(asked))
    if asked.folder:
        (asked.folder / "row.json").write_text(json.dumps(found) + "\n", encoding="utf-8")
    print(json.dumps(found))
    return found["harmed"]


if __name__ == "__main__":
    sys.exit(main())
