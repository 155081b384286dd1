# SPDX-License-Identifier: Apache-2.0
"""What tokenizer and pretraining are worth on real images: every recipe of configs/*/{cifar10,tiny_imagenet20,camvid}.

    python benchmarks/real_runs.py DATA -o runs/real                    # all of it: many hours on two cores
    python benchmarks/real_runs.py DATA -o runs/real --sets cifar10 --seeds 1 --teachers lite0
    python benchmarks/real_runs.py DATA -o runs/real --dry-run          # the commands

A part that is finished is not repeated, one that was killed continues: type the same command again.  OUT/results.md
has every number, OUT/page the figures, OUT/logs what the commands said.  Exit status 1 where a part failed.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from harness import machine
from real.parts import STAGES, TEACHERS, Plan, check_changes, parts_of
from real.results import write_results
from real.sets import SETS, find
from real.work import clock, work

from beitv2_core.errors import BEiTError


def arguments(words: Optional[Sequence[str]]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train and measure the recipes of real images.", allow_abbrev=False)
    parser.add_argument("data", type=Path, help="folder of the sets, or of their archives (docs/small-data.md)")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/real"), help="default: runs/real")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS), help="default: all")
    parser.add_argument("--seeds", type=int, default=3, help="of every comparison (default: 3)")
    parser.add_argument("--teachers", nargs="+", choices=TEACHERS, default=list(TEACHERS),
                        help="hog; lite0: EfficientNet-Lite0 (default: both)")
    parser.add_argument("--set", nargs="+", default=[], metavar="[SET.]STAGE.KEY=VALUE",
                        help=f"change settings of one stage ({', '.join(STAGES)}), or of one stage of one set; those "
                             "of compare and report are options of these commands")
    parser.add_argument("--dry-run", action="store_true", help="show the commands, run and write nothing")
    return parser.parse_args(words)


def main(words: Optional[Sequence[str]] = None) -> int:
    """Run what is missing; 1 where something failed."""
    asked = arguments(words)
    if asked.seeds < 1:
        print(f"--seeds {asked.seeds}: expected at least 1.", file=sys.stderr)
        return 2
    out, data = asked.output.resolve(), asked.data.resolve()
    try:
        check_changes(asked.set)
        sets = [name for name in SETS if name in asked.sets]
        teachers = [name for name in TEACHERS if name in asked.teachers]
        folders = {name: find(name, data, out / "data", dry=asked.dry_run) for name in sets}
        parts = parts_of(Plan(folders, out, teachers, asked.seeds, asked.set))
        if asked.dry_run:
            for part in parts.values():
                print(f"{part.name}: {shlex.join(['beitv2', *part.command])}")
            return 0
    except BEiTError as error:
        print(error, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the running command too
    began = time.monotonic()
    failed = work(parts, out, lambda line: print(line, flush=True))
    facts = {"commit": machine.commit(), "machine": machine.hardware(), "versions": machine.versions(),
             "seeds": asked.seeds, "changes": asked.set}
    page = write_results(parts, out, facts, failed, data)
    print(f"{len(parts) - len(failed)} of {len(parts)} parts are finished; {clock(time.monotonic() - began)} this time")
    print(f"written: {out / 'results.md'}\nwritten: {page}")
    for name, why in failed.items():
        print(f"failed: {name}: {why}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
