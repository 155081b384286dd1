# SPDX-License-Identifier: Apache-2.0
"""`paddle.distributed.launch`, ended when `beitv2 launch` ends: python -m beitv2_core.launching.launcher ARGUMENTS"""

from __future__ import annotations

import os
import runpy

from beitv2_core.launching.processes import end_with
from beitv2_core.launching.records import NO_GPUS, PARENT
from beitv2_core.runtime import users_environment

if __name__ == "__main__":
    end_with(int(os.environ[PARENT]))
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        # Paddle's launcher takes it for one GPU without a name, and fails for a second process: they get it back.
        del os.environ["CUDA_VISIBLE_DEVICES"]
        os.environ[NO_GPUS] = "1"
    for name in set(os.environ) - set(users_environment()):
        del os.environ[name]  # of one process that has all cores: each of the processes takes its share
    runpy.run_module("paddle.distributed.launch", run_name="__main__", alter_sys=True)
