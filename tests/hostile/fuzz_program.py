# SPDX-License-Identifier: Apache-2.0
"""A program that reads one hostile input after the other and prints a line of JSON for each.

fuzz_program.py PARSER FOLDER SEED COUNT START: inputs START to COUNT - 1 of those that SEED draws, in FOLDER.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from weights_fuzz import MEMORY, peak_memory

PROCESSES = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pty.spawn",
             "os.startfile")


def forget_peak() -> None:
    """Let the next `peak_memory` count from now on, where the system can (Linux)."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


class Forbidden:
    """Notes what an input makes the program do beside reading: programs started, files written outside the folder."""

    def __init__(self, folder: Path):
        self.inside, self.seen, self.watching = os.path.realpath(folder), [], False
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        if event in PROCESSES or event == "socket.connect":
            self.seen.append(f"{event} {arguments!r}"[:200])
        elif event == "open" and isinstance(arguments[0], (str, bytes)) and isinstance(arguments[2], int):
            path = os.path.realpath(os.fsdecode(arguments[0])) if b"\0" not in os.fsencode(arguments[0]) else ""
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and path and not path.startswith((self.inside, "/dev/null", os.environ["XDG_CACHE_HOME"])):
                self.seen.append(f"writes {path}")


def drawn(parser: Any, name: str, seed: int, count: int, marker: Path) -> list[Any]:
    """The inputs: hand-made ones for up to half, evenly chosen, the others changed from whole ones; the first whole."""
    from mutations import mutated

    seeds, special = parser.seeds(), list(parser.special(marker))
    chosen = len(special) if len(special) <= count // 2 else count // 2
    by_hand = [special[number * len(special) // chosen] for number in range(chosen)]
    inputs = [seeds[number % len(seeds)] for number in range(min(len(seeds), max(count // 8, 1)))]
    inputs += by_hand
    while len(inputs) < count:
        rng = random.Random(f"{seed} {name} {len(inputs)}")
        whole = seeds[rng.randrange(len(seeds))]
        files = dict(whole.files)
        for changed in rng.sample(whole.changed, 1 if rng.random() < 0.9 else min(2, len(whole.changed))):
            files[changed] = mutated(changed, files[changed], rng, marker)
        inputs.append(whole._replace(files=parser.seal(files) if whole.sealed else files,
                                     name=f"{whole.name} changed {len(inputs)}"))
    return inputs[:count]


def outcome(parser: Any, path: Path, folder: Path) -> tuple[str, str]:
    """What reading one input came to, and the message or fault; a message must name a file of the input's folder."""
    import traceback

    from beitv2_core.errors import BEiTError

    try:
        parser.read(path)
    except BEiTError as error:
        return ("refused" if str(folder) in str(error) else "unnamed"), f"{type(error).__name__}: {error}"
    except BaseException as error:
        if type(error).__name__ == "Problem":  # of a request: it has no path
            return "refused", str(error)
        places = [f"{Path(one.filename).name}:{one.lineno}" for one in traceback.extract_tb(error.__traceback__)[-40:]]
        return "crashed", f"{type(error).__name__}: {error!s:.300} at {' '.join(places[-12:])}"
    return "read", ""


def main(name: str, folder: Path, seed: int, count: int, start: int) -> None:
    """Read the inputs and report on each."""
    import logging

    from parsers import PARSERS

    logging.disable(logging.CRITICAL)
    reports = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print, too

    def say(**report: Any) -> None:
        print(json.dumps(report), file=reports, flush=True)

    parser, marker = PARSERS[name], folder / "executed"
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    inputs = drawn(parser, name, seed, count, marker)
    write(inputs[0], folder / "first")
    outcome(parser, folder / "first" / inputs[0].target, folder)  # imports what it needs
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))  # what takes all gets an error, not the machine
    os.chdir(folder)
    forbidden = Forbidden(folder)
    for number in range(start, count):
        place = folder / "input"
        write(inputs[number], place)
        size = sum(map(len, inputs[number].files.values()))
        say(starts=number, name=inputs[number].name)
        forget_peak()
        before, began = peak_memory(), time.perf_counter()
        forbidden.seen, forbidden.watching = [], True
        result, detail = outcome(parser, place / inputs[number].target, place)
        forbidden.watching = False
        taken = peak_memory() - before
        executed = [*forbidden.seen, *(["the marker is there"] if marker.exists() else [])]
        marker.unlink(missing_ok=True)
        say(number=number, name=inputs[number].name, size=size, result=result, detail=detail[:1500],
            seconds=time.perf_counter() - began, taken=taken, executed=executed,
            over=taken > parser.constant + parser.multiple * size)


def write(seed: Any, place: Path) -> None:
    """The files of an input in a new folder."""
    shutil.rmtree(place, ignore_errors=True)
    for name, content in seed.files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve(), *map(int, sys.argv[3:6]))
