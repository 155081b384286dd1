# SPDX-License-Identifier: Apache-2.0
"""Faults put into a process from inside; `warm.py` calls one of these functions in the fork before the command runs."""

from __future__ import annotations

import builtins
import os
import random
import resource
import signal
import subprocess
import threading
import time


def kill_at_rename(number: int) -> None:
    """SIGKILL just before the `number`-th file or folder gets its final name."""
    seen = 0

    def counted(original):
        def rename(*args, **options):
            nonlocal seen
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)
        return rename

    os.replace, os.rename = counted(os.replace), counted(os.rename)


def at_step(number: int, act) -> None:
    """Call `act` in the loop's try, before the update of step `number` is computed."""
    from beitv2_core.engine import loop

    original = loop.train_step

    def train_step(*args, step, **options):
        if step == number:
            act()
        return original(*args, step=step, **options)

    loop.train_step = train_step


def checkpoint_is_written() -> None:
    """Wait until no thread writes a checkpoint any more."""
    from beitv2_core.engine.saving import THREAD

    for thread in threading.enumerate():
        if thread.name == THREAD:
            thread.join()


def no_memory(step: int) -> None:
    """From that step on the process may not grow: Paddle's next large allocation fails."""
    def limit():
        import paddle

        checkpoint_is_written()
        with open("/proc/self/statm", encoding="ascii") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        paddle.ones([1 << 28])

    at_step(step, limit)


def clock_jumps(seed: int) -> None:
    """Both clocks jump by up to a day, back and forth, at every third reading or so."""
    draw, offset = random.Random(seed), [0.0]

    def jumping(original):
        def clock():
            if draw.random() < 0.3:
                offset[0] += draw.uniform(-86400, 86400)
            return original() + offset[0]
        return clock

    time.time, time.monotonic = jumping(time.time), jumping(time.monotonic)


def read_error(part: str, times: int) -> None:
    """Opening a file whose path ends with `part` fails with EIO so many times (-1: always)."""
    original, left = builtins.open, [times]

    def opened(path, *args, **options):
        if str(path).endswith(part) and left[0]:
            left[0] -= 1
            raise OSError(5, "Input/output error", str(path))
        return original(path, *args, **options)

    builtins.open = opened


def signals(step: int, numbers: list) -> None:
    """The process gets these signals in that step."""
    at_step(step, lambda: [os.kill(os.getpid(), number) for number in numbers])


def signal_while_saving(number: int, saves: int) -> None:
    """The signal comes in the middle of the `saves`-th checkpoint, and once more at its end."""
    from beitv2_core.checkpoint import store

    original, seen = store.save_tensors, [0]

    def save_tensors(*args):
        digest = original(*args)
        seen[0] += 1
        if seen[0] in (3 * saves - 1, 3 * saves):
            os.kill(os.getpid(), number)
        return digest

    store.save_tensors = save_tensors


def kill_while_writing(step: int, file: int) -> None:
    """SIGKILL after that file of the checkpoint of a step, once the training has begun another step."""
    from beitv2_core.checkpoint import store
    from beitv2_core.engine import loop

    save_tensors, train_step, begun, seen = store.save_tensors, loop.train_step, [0], [0]

    def counted(*args, step, **options):
        begun[0] = step + 1
        return train_step(*args, step=step, **options)

    def killed(path, arrays):
        digest = save_tensors(path, arrays)
        seen[0] += f"step_{step:06d}" in str(path)
        if seen[0] == file:
            while begun[0] <= step:
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGKILL)
        return digest

    loop.train_step, store.save_tensors = counted, killed


def signal_to_the_group(batch: int, number: int) -> None:
    """The process becomes a group of its own; while it waits for that batch every process of it gets the signal."""
    from beitv2_core.data import loader

    os.setpgid(0, 0)
    original, seen = loader.Loader._receive, [0]

    def receive(self, future):
        seen[0] += 1
        if seen[0] == batch:
            subprocess.run(["kill", f"-{number}", "--", f"-{os.getpgrp()}"], start_new_session=True, check=True)
            time.sleep(0.3)
        return original(self, future)

    loader.Loader._receive = receive


def remove_folder(step: int, folder: str) -> None:
    """The folder is gone from that step on."""
    import shutil

    at_step(step, lambda: (checkpoint_is_written(), shutil.rmtree(folder)))


def kill_a_worker(batch: int) -> None:
    """One of the data workers gets SIGKILL when that batch is asked for."""
    from beitv2_core.data import loader

    original, seen = loader.Loader._receive, [0]

    def receive(self, future):
        seen[0] += 1
        if seen[0] == batch:
            os.kill(next(iter(self._pool._processes)), signal.SIGKILL)
        return original(self, future)

    loader.Loader._receive = receive


def record_writes(root: str, record: str) -> None:
    """Record all that happens below `root` into a file, with a mark after each checkpoint that was saved."""
    from recorded_writes import Recorder

    from beitv2_core.checkpoint.store import CheckpointStore

    os.makedirs(root, exist_ok=True)
    recorder, save = Recorder(root, open(record, "wb")), CheckpointStore.save

    def saved(self, step, *arguments, **options):
        path = save(self, step, *arguments, **options)
        recorder.mark(f"saved {step}")
        return path

    CheckpointStore.save = saved
    recorder.start()


def flip_a_bit(step: int) -> None:
    """The lowest bit of the model's first parameter flips after the first computation of that step."""
    from beitv2_core.engine import loop

    original, left = loop.train_step, [step]

    def train_step(task, *args, step, **options):
        found = original(task, *args, step=step, **options)
        if step in left:
            left.remove(step)
            first = next(iter(task.model.parameters()))
            array = first.numpy()
            array.reshape(-1).view("uint32")[0] ^= 1
            first.set_value(array)
        return found

    loop.train_step = train_step
