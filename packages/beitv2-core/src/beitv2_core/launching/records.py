# SPDX-License-Identifier: Apache-2.0
"""What the processes of a launch tell `beitv2 launch` on their host, in small files of a folder that it names.

The launcher's own exit code is that of its first process, which mostly is one that ended because another one was gone.
Only a process that ends by an error of its own can say so; one that was killed leaves no file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ..files.atomic import write_text_atomically

#: environment of the processes: the folder, the most hosts of the job, "1" from the second start on
FOLDER, HOSTS, RESTARTED = "BEITV2_LAUNCH_RECORDS", "BEITV2_LAUNCH_HOSTS", "BEITV2_LAUNCH_RESTARTED"
#: environment of the launcher: the process that started it; "1" where the user has hidden all GPUs
PARENT, NO_GPUS = "BEITV2_LAUNCH_PARENT", "BEITV2_LAUNCH_NO_GPUS"


class Records(NamedTuple):
    """What was told: rank -> process id, rank -> exit code of those that ended by themselves, images of an update."""

    pids: dict[int, int]
    codes: dict[int, int]
    total_batch: int | None

    @classmethod
    def read(cls, folder: Path) -> Records:
        """All files that are complete."""
        numbers: dict[str, dict[int, int]] = {"pid": {}, "code": {}, "total_batch": {}}
        for path in folder.iterdir():
            kind, _, rank = path.name.partition(".")
            if kind in numbers and rank.isdigit():
                numbers[kind][int(rank)] = int(path.read_text(encoding="ascii"))
        return cls(numbers["pid"], numbers["code"], next(iter(numbers["total_batch"].values()), None))


def tell(kind: str, number: int) -> None:
    """Leave a number of this process ("pid", "code" or "total_batch"); nothing outside of `beitv2 launch`."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        return
    write_text_atomically(Path(folder) / f"{kind}.{os.environ.get('PADDLE_TRAINER_ID', '0')}", str(number))


def processes_may_change() -> bool:
    """True under a `beitv2 launch` of several hosts, which goes on with those that are left."""
    return int(os.environ.get(HOSTS, "1")) > 1


def is_restart() -> bool:
    """True from the second start of a job on."""
    return os.environ.get(RESTARTED) == "1"
