# SPDX-License-Identifier: Apache-2.0
"""One process of a launched run: trains from a config file's path and settings, then leaves its own weights.

    python -m paddle.distributed.launch --nproc_per_node 2 --backend gloo --log_dir LOGS \\
        rank.py FOLDER CONFIG KEY=VALUE...
"""

from __future__ import annotations

import sys
from pathlib import Path

import beitv2_core  # noqa: F401  before paddle

if __name__ == "__main__":
    import numpy as np

    from beitv2_core.assembly import build_training
    from beitv2_core.config import load_config
    from beitv2_core.engine import distributed

    folder, config, *settings = sys.argv[1:]
    loop = build_training(load_config(config, [*settings, f"output={folder}"]))
    loop.run()
    weights = {name: value.numpy() for name, value in loop.task.model.state_dict().items()}
    np.savez(Path(folder) / f"rank_{distributed.rank()}.npz", **weights)
