# SPDX-License-Identifier: Apache-2.0
"""One process of a launched toy run: continues it for a step and leaves the names of the files hashed at its start.

    python -m paddle.distributed.launch --nproc_per_node 2 --backend gloo --log_dir LOGS hashing_rank.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import beitv2_core  # noqa: F401  before paddle

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "core/engine"))
    from toy import make_loop

    from beitv2_core.checkpoint import store
    from beitv2_core.engine import distributed

    folder, hashed, sha256_of = Path(sys.argv[1]), [], store.sha256_of

    def counted(path: Path) -> str:
        hashed.append(str(path.relative_to(folder / "checkpoints")))
        return sha256_of(path)

    store.sha256_of = counted
    loop = make_loop(folder, steps=12)
    start = loop._start

    def started(resume: str) -> None:
        start(resume)
        (folder / f"hashed_{distributed.rank()}.json").write_text(json.dumps({"step": loop.step, "hashed": hashed}))

    loop._start = started
    loop.run("auto", stop_after=1)
