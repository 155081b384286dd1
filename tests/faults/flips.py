# SPDX-License-Identifier: Apache-2.0
"""Single bits flipped in one process of a run, one after the other; each must be found, and the run end as without.

    python tests/faults/flips.py [--flips 100] [--processes 2] [FOLDER]

prints one row of JSON and leaves it in FOLDER as row.json; exit code 1 where something was not withstood.

A quarter of the flips each in weights, averaged gradients, moments and codebook, at drawn steps,
processes, tensors, elements and bits, in one launch of a small run with a codebook on CPUs.  Of gradients and moments
bits 12 to 31 of a number that is not 0, and none of the powers of beta, which are 0 after some hundred steps: what a
lower one changes can be lost in the rounding of the next updates.  --any-bit draws from all of them; a flip that is not
found then left no trace: all processes had the same bits at the next comparison, and the run ends with those of the
undisturbed one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import beitv2_core  # noqa: F401  before paddle

KINDS = ("weights", "gradients", "moments", "codebook")
#: steps between two flips, which is also how often the run saves; steps between comparisons
EVERY, CHECK_EVERY = 10, 5


class Flip(NamedTuple):
    """A bit to flip in a process once `step` updates are done; of a gradient, in the update that leads there."""

    step: int
    kind: str
    process: int
    seed: int


def drawn(flips: int, processes: int, seed: int = 0) -> list[Flip]:
    """The flips, one in each stretch of `EVERY` steps."""
    draw = random.Random(seed)
    return [Flip(EVERY * (i + 1) + draw.randint(1, EVERY - 1), KINDS[i % len(KINDS)], draw.randrange(processes), i)
            for i in range(flips)]


def flip_a_bit(tensors: dict[str, Any], seed: int, lowest: int = 0) -> str:
    """Flip one bit of a float32 tensor in its memory; returns which one."""
    import numpy as np

    draw = random.Random(seed)
    name = draw.choice(sorted(tensors))
    array = tensors[name].numpy()
    places = np.flatnonzero(array) if lowest else np.arange(array.size)
    if not len(places):
        return flip_a_bit(tensors, seed + 1000, lowest)
    place, bit = int(draw.choice(places.tolist())), draw.randint(lowest, 31)
    array.reshape(-1).view(np.uint32)[place] ^= np.uint32(1 << bit)
    tensors[name].set_value(array)
    return f"{name}[{place}] bit {bit}"


def plant(loop: Any, flips: list[Flip], rank: int, any_bit: bool) -> dict[int, str]:
    """Let the flips happen in this process's loop, each once; returns a dict that fills with where they were."""
    from beitv2_core.engine import loop as module
    from beitv2_core.engine.optim import moments

    done: dict[int, str] = {}
    due = {flip.step: flip for flip in flips if flip.process == rank}
    model, optimizer, original, update = loop.task.model, loop.optimizer, module.train_step, loop.optimizer.step
    lowest = 0 if any_bit else 12

    def train_step(*args: Any, step: int, **options: Any) -> Any:
        now = due.get(step + 1)
        if now is not None and now.kind == "gradients":
            def flipped() -> None:
                optimizer.step = update
                gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
                done[now.seed] = flip_a_bit(gradients, now.seed, lowest)
                update()

            if now.seed not in done:
                optimizer.step = flipped
        found = original(*args, step=step, **options)
        if now is not None and now.seed not in done:
            buffers = {name: value for name, value in model.state_dict().items() if "quantize" in name}
            kept = {name: value for name, value in moments(optimizer, model).items()
                    if any_bit or "_pow_acc" not in name}
            tensors = {"weights": dict(model.named_parameters()), "codebook": buffers, "moments": kept}[now.kind]
            done[now.seed] = flip_a_bit(tensors, now.seed, lowest if now.kind == "moments" else 0)
        return found

    module.train_step = train_step
    return done


def build(folder: Path, steps: int, **options: Any) -> Any:
    """The loop of a small network with a codebook, on drawn numbers."""
    import numpy as np
    import paddle
    from paddle import nn

    from beitv2_core.checkpoint.store import CheckpointStore
    from beitv2_core.engine import distributed
    from beitv2_core.engine.loop import TrainLoop
    from beitv2_core.engine.optim import build_optimizer
    from beitv2_core.engine.run_folder import RunFolder
    from beitv2_core.engine.schedule import step_schedule
    from beitv2_core.engine.task import Task
    from beitv2_core.models.quantizer import NormEMAQuantizer

    class Batches:
        steps_per_epoch, position = 40, 0

        def identity(self) -> None:
            return None

        def __iter__(self) -> Any:
            while True:
                rng = np.random.RandomState([self.position, distributed.rank()])
                self.position += 1
                yield rng.randn(4, 6, 8).astype("float32")

        def state(self) -> dict[str, int]:
            return {"position": self.position}

        def load_state(self, state: dict[str, int]) -> None:
            self.position = state["position"]

    class Net(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.encode = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))
            self.quantize = NormEMAQuantizer(16, 4, kmeans_init=False)
            self.decode = nn.Linear(4, 8)

        def forward(self, x: Any) -> Any:
            z = self.quantize(self.encode(x))
            return ((self.decode(z.z_q) - x) ** 2).mean() + z.loss

    class Toy(Task):
        def __init__(self) -> None:
            self.model = self.network = Net()

        def loss(self, batch: Any, *, step: int) -> Any:
            return self.network(paddle.to_tensor(batch)), {}

    paddle.seed(0)
    task, run = Toy(), RunFolder(folder)
    return TrainLoop(task, Batches(), build_optimizer("adamw", task.model, lr=1e-2, weight_decay=0.1),
                     lr=step_schedule(1e-2, 1e-4, total_steps=steps, warmup_steps=3),
                     weight_decay=step_schedule(0.1, 0.2, total_steps=steps), run=run,
                     store=CheckpointStore(run.checkpoints, keep_last=2), config={"seed": 1}, seed=1,
                     images_per_step=4 * distributed.world_size(), clip_norm=1.0, log_every=EVERY,
                     **{"save_every": EVERY, "check_every": CHECK_EVERY, **options})


def last_arrays(folder: Path) -> dict[str, Any]:
    """Weights, buffers and moments of the newest checkpoint."""
    from beitv2_core.checkpoint.store import CheckpointStore

    store = CheckpointStore(folder / "checkpoints")
    path = store.latest()
    assert path is not None
    found = store.load(path)
    return {**{f"weights/{name}": value for name, value in found.weights.items()},
            **{f"optimizer/{name}": value for name, value in found.optimizer.items()}}


def same_bits(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same bits."""
    left, right = last_arrays(one), last_arrays(other)
    return left.keys() == right.keys() and all(left[name].tobytes() == right[name].tobytes() for name in left)


def child(folder: Path, flips: int, any_bit: bool) -> None:
    """In each process of the launch: the run without flips, and the same with them."""
    from beitv2_core.engine import distributed

    steps = EVERY * (flips + 2)
    build(folder / "undisturbed", steps).run()
    loop = build(folder / "flipped", steps)
    distributed.init()
    planned = drawn(flips, distributed.world_size())
    done = plant(loop, planned, distributed.rank(), any_bit)
    loop.run()
    (folder / f"planted_{distributed.rank()}.json").write_text(json.dumps(done))


def found_of(flip: Flip, lines: list[dict[str, Any]], processes: int) -> bool:
    """Whether a line of corruption.jsonl is of that flip: within the steps, and of the process where that can be told.

    An update that ends in no finite number is found before it counts.
    """
    return any(flip.step <= line["found_at_step"] <= flip.step + CHECK_EVERY
               and flip.step - CHECK_EVERY <= line["after_step"] < flip.step
               and line["processes"] == ([flip.process] if processes > 2 else [])
               for line in lines if "found_at_step" in line)


def launch(folder: Path, flips: int, processes: int, *, any_bit: bool = False) -> dict[str, Any]:
    """Run all of it and count; the row of the table."""
    began = time.monotonic()
    launcher = subprocess.Popen(
        [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(processes), "--backend", "gloo",
         "--log_dir", str(folder / "logs"), __file__, "--child", "--flips", str(flips),
         *(["--any-bit"] if any_bit else []), str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"})
    try:
        output, _ = launcher.communicate(timeout=120 + 10 * flips)
    finally:
        launcher.terminate()  # its processes end with it
        launcher.wait()
    logs = "\n".join(path.read_text(errors="replace")[-4000:] for path in sorted((folder / "logs").glob("workerlog.*")))
    if launcher.returncode:
        raise RuntimeError(output[-2000:] + logs)
    lines = [json.loads(line) for line in (folder / "flipped/corruption.jsonl").read_text().splitlines()]
    planned = drawn(flips, processes)
    planted = {int(seed): where for rank in range(processes)
               for seed, where in json.loads((folder / f"planted_{rank}.json").read_text()).items()}
    missed = [f"{flip} {planted.get(flip.seed)}" for flip in planned if not found_of(flip, lines, processes)]
    same = same_bits(folder / "undisturbed", folder / "flipped")
    return {"part": "flipped bits", "times": len(planted), "harmed": (0 if any_bit else len(missed)) + int(not same),
            "note": {"steps": CHECK_EVERY}, "found": flips - len(missed), "missed": missed,
            "reports": sum("found_at_step" in line for line in lines), "processes": processes,
            "by_kind": {kind: sum(flip.kind == kind for flip in planned) for kind in KINDS},
            "same_bits_as_undisturbed": same, "seconds": round(time.monotonic() - began, 1)}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=100, help="bits to flip, a quarter of each kind (default: 100)")
    parser.add_argument("--processes", type=int, default=2, help="of the launch (default: 2)")
    parser.add_argument("--any-bit", action="store_true", help="also bits whose change can be lost in rounding")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("folder", nargs="?", type=Path, help="an empty folder to keep; default: a temporary one")
    asked = parser.parse_args()
    if asked.child:
        child(asked.folder, asked.flips, asked.any_bit)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = (asked.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        found = json.dumps(launch(folder, asked.flips, asked.processes, any_bit=asked.any_bit))
        (folder / "row.json").write_text(found + "\n", encoding="utf-8")
    print(found)
    return int(json.loads(found)["harmed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
