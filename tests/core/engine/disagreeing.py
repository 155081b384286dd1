# SPDX-License-Identifier: Apache-2.0
"""Two processes that disagree in one thing after the other; process N writes what it is told into FOLDER/N.json.

    python -m paddle.distributed.launch --nproc_per_node 2 --backend gloo --log_dir LOGS disagreeing.py FOLDER
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from unittest import mock

import beitv2_core  # noqa: F401  before paddle
from beitv2_core.engine import common_start, distributed
from beitv2_core.errors import ConfigError

CONFIG = {"optim": {"lr": 0.1}, "data": {"num_workers": 2}, "output": "运行"}


def told(config=CONFIG, data="images of one kind"):
    """The error of the check, or what it says of a common step."""
    try:
        common_start.check_agreement(config, data)
    except ConfigError as error:
        return str(error)
    return "agreed"


if __name__ == "__main__":
    distributed.init()
    other = distributed.rank() == 1
    found = {"nothing": told(), "workers": told({**CONFIG, "data": {"num_workers": 5 if other else 2}}),
             "settings": told({**CONFIG, "optim": {"lr": 0.2 if other else 0.1}}),
             "images": told(data="images of another kind" if other else "images of one kind")}
    versions = {"python": "3.9.1", "numpy": "1.23.0"}
    with mock.patch.object(common_start, "versions", lambda: {**versions, "numpy": "1.26.4"} if other else versions):
        found["versions"] = told()
    now = time.time
    for seconds in (30, 300):
        with mock.patch.object(time, "time", lambda seconds=seconds: now() - seconds * other):
            found[f"clock {seconds} s late"] = told()
    try:
        common_start.check_common_step(40 if other else 20, Path("run"))
    except ConfigError as error:
        found["step"] = str(error)
    Path(sys.argv[1], f"{distributed.rank()}.json").write_text(json.dumps(found))
