# SPDX-License-Identifier: Apache-2.0
"""A job of `beitv2 launch` loses processes and hosts, and comes back by itself with the losses of an undisturbed run.

    python tests/e2e/lost_processes.py [--steps 200] [FOLDER]

prints one row of JSON and leaves it in FOLDER as row.json; exit code 1 where something was not withstood.

Two hosts are two `beitv2 launch` of this machine.  Each scenario happens twice in a row in one run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
#: 8 images behind every update; 100 images: an epoch of 12 updates
SMALL = ["data.size=100", "data.image_size=32", "model.width=24", "model.num_heads=2", "optim.warmup_steps=2",
         "train.log_every=1", "train.save_every=10", "train.total_batch=8", "train.batch_size=4"]
#: of the issue: from the end of the lost process to the next finished step
BACK_WITHIN_SECONDS = 60.0
#: what another number of processes changes by rounding
TOLERANCE = 1e-5


class Run:
    """A pretraining run in a folder, and the `beitv2 launch` of its hosts."""

    def __init__(self, folder: Path, tokens: Path, steps: int, hosts: int = 1, processes: int = 2):
        self.folder, self.hosts, self.processes = folder, hosts, processes
        self.command = ["pretrain", str(CONFIGS / "pretrain/digit_scenes.yml"), "--set", *SMALL,
                        f"optim.steps={steps}", f"tokenizer.weights={tokens}", f"output={folder}"]
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.launches: dict[int, subprocess.Popen[str]] = {}

    def launch(self, host: int = 0, restarts: int = 9) -> None:
        """Start `beitv2 launch` on a host."""
        flags = ["--nproc-per-node", self.processes, "--restarts", restarts, "--log-dir", f"{self.folder}_logs/{host}"]
        if self.hosts > 1:
            flags += ["--nnodes", self.hosts, "--rank", host, "--master", f"127.0.0.1:{self.port}", "--wait", 5]
        with open(f"{self.folder}_host_{host}.log", "a", encoding="utf-8") as log:
            self.launches[host] = subprocess.Popen(
                [sys.executable, "-m", "beitv2_core.cli", "launch", *map(str, flags), *self.command], text=True,
                stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"})

    def said(self) -> str:
        """All that was printed."""
        paths = [*self.folder.parent.glob(f"{self.folder.name}_host_*.log"),
                 *Path(f"{self.folder}_logs").rglob("workerlog.*")]
        return "\n".join(f"== {path}\n{path.read_text()[-6000:]}" for path in sorted(paths))

    def worker(self, host: int, rank: int) -> int:
        """The process of that rank on a host."""
        for launcher in _children(self.launches[host].pid):
            for pid in _children(launcher):
                if f"PADDLE_TRAINER_ID={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    return pid
        raise AssertionError(f"no process of rank {rank} on host {host}")

    def lines(self) -> list[dict[str, Any]]:
        """The lines of metrics so far."""
        path = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")] \
            if path.exists() else []

    def wait_for(self, step: int, seconds: float = 120.0) -> None:
        """Wait until that step was logged."""
        self._wait(lambda: any(line["step"] >= step for line in self.lines()), seconds, f"step {step}")

    @contextlib.contextmanager
    def comes_back(self, found: list[float]) -> Iterator[None]:
        """Do something that ends the job's processes; adds the seconds until a step of the next start is finished.

        A start writes the metrics anew up to the step it goes on from: another file, to which lines are added.
        """
        path = self.folder / "metrics.jsonl"
        before = path.stat().st_ino
        yield
        began = time.monotonic()
        self._wait(lambda: path.exists() and path.stat().st_ino != before, 150.0, "another start")
        kept = len(self.lines())
        self._wait(lambda: len(self.lines()) > kept, 60.0, "a step after another start")
        found.append(time.monotonic() - began)

    def _wait(self, met: Any, seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not met():
            if time.monotonic() > deadline or self.launches[0].poll() is not None:
                raise AssertionError(f"{what} did not come within {seconds:g} s\n{self.said()}")
            time.sleep(0.02)

    def end(self, seconds: float = 300.0) -> None:
        """Wait for the end, which must be a good one."""
        for launch in self.launches.values():
            assert launch.wait(timeout=seconds) == 0, self.said()

    def losses(self) -> list[float]:
        """The losses of steps 1, 2, ..., each logged once."""
        lines = self.lines()
        assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
        return [line["loss"] for line in lines]

    def close(self) -> None:
        """End what is left; the processes end with their `beitv2 launch`."""
        for launch in self.launches.values():
            launch.kill()
            launch.wait()


def _children(pid: int) -> list[int]:
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def make_tokens(folder: Path) -> Path:
    """An untrained tokenizer for the runs."""
    small = ["encoder.width=24", "encoder.depth=2", "decoder.width=24", "decoder.depth=1", "quantizer.num_codes=16",
             "data.image_size=32"]
    subprocess.run([sys.executable, "-m", "beitv2_core.cli", "init-tokenizer",
                    str(CONFIGS / "tokenizer/digit_scenes.yml"), "--set", *small, "-o", str(folder / "tokens"),
                    "--teacher-width", "24"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder / "tokens"


def difference(run: Run, undisturbed: Run) -> float:
    """The largest relative difference of the losses."""
    ours, wanted = run.losses(), undisturbed.losses()
    assert len(ours) == len(wanted)
    return max(abs(one - other) / abs(other) for one, other in zip(ours, wanted))


def lose_processes(run: Run, numbers: list[int], between: int = 15) -> list[float]:
    """On one host: SIGKILL or SIGSTOP of process 1, one after the other; seconds until the job was back."""
    back: list[float] = []
    run.launch()
    for number in numbers:
        run.wait_for(len(run.lines()) + between)
        with run.comes_back(back):
            os.kill(run.worker(0, 1), number)
    run.end()
    return back


def lose_a_host(run: Run, hows: list[str], between: int = 15) -> tuple[list[float], list[float]]:
    """On two hosts: host 1 is lost and comes back later; seconds until the job was back without and with it.

    "killed": its processes are gone; "silent": all are stopped, and it is not heard of, as when its network is cut.
    """
    shrunk: list[float] = []
    grown: list[float] = []
    run.launch(0)
    run.launch(1)
    for how in hows:
        run.wait_for(len(run.lines()) + between)
        pids = [run.launches[1].pid, *_children(run.launches[1].pid), run.worker(1, 1)]
        with run.comes_back(shrunk):
            for pid in pids[:1] if how == "killed" else pids:
                os.kill(pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        run.wait_for(len(run.lines()) + between)
        with run.comes_back(grown):
            if how == "killed":
                run.launches[1].wait()
                run.launch(1)
            else:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
    run.end()
    return shrunk, grown


def row(folder: Path, steps: int = 200) -> dict[str, Any]:
    """Everything, as one row: what happened, the seconds until the job was back, the difference of the losses."""
    tokens = make_tokens(folder)
    whole = Run(folder / "whole", tokens, steps)
    one = Run(folder / "one_host", tokens, steps)
    two = Run(folder / "two_hosts", tokens, steps, hosts=2, processes=1)
    try:
        whole.launch()
        whole.end()
        killed = lose_processes(one, [signal.SIGKILL] * 2 + [signal.SIGSTOP] * 2)
        shrunk, grown = lose_a_host(two, ["killed", "killed", "silent"])
        apart = max(difference(one, whole), difference(two, whole))
    finally:
        for run in (whole, one, two):
            run.close()
    seconds = {"process killed": killed[:2], "process stopped": killed[2:], "host killed, one left": shrunk[:2],
               "host silent, one left": shrunk[2:], "host back, two again": grown}
    back = [*killed, *shrunk, *grown]
    return {"part": "lost processes", "times": len(back),
            "harmed": sum(value > BACK_WITHIN_SECONDS for value in back) + int(apart >= TOLERANCE),
            "note": {"seconds": round(max(back), 1)}, "seconds until back": {name: [round(value, 1) for value in values]
                                                             for name, values in seconds.items()},
            "largest relative difference of the losses": apart}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="of each run (default: 200)")
    parser.add_argument("folder", nargs="?", type=Path, help="an empty folder to keep; default: a temporary one")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (asked.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        found = json.dumps(row(folder, asked.steps))
        (folder / "row.json").write_text(found + "\n", encoding="utf-8")
    print(found)
    return int(json.loads(found)["harmed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
