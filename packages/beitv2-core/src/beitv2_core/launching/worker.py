# SPDX-License-Identifier: Apache-2.0
"""A command of `beitv2` that ends with the process that started it: worker.py COMMAND ARGUMENTS...

The launcher of `beitv2 launch` starts it by its path; it then leaves its process id and, if it can, how it ended.
"""

from __future__ import annotations

import os
import runpy
import sys
import time

if sys.path and sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
    del sys.path[0]  # Python's own doing for a script; this folder holds no modules to import by their short names

from beitv2_core.launching.processes import end_with
from beitv2_core.launching.records import NO_GPUS, tell

#: longer than the peer monitor needs to end a process whose collective failed because another process is gone
SECONDS_OF_THE_MONITOR = 3.0


def run() -> None:
    """The command line of `beitv2`; its exit code, or 1 for an exception, is left for `beitv2 launch`."""
    parent = os.getppid()
    tell("pid", os.getpid())
    end_with(parent)
    if os.environ.get(NO_GPUS) == "1":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    code = 0
    try:
        runpy.run_module("beitv2_core.cli", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    except BaseException:
        code = 1
        time.sleep(SECONDS_OF_THE_MONITOR)
        raise
    finally:
        tell("code", code)


if __name__ == "__main__":
    run()
