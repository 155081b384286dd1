# SPDX-License-Identifier: Apache-2.0
"""Processes that disagree do not start: versions, settings, images, clocks and the step they would go on from."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beitv2_core.engine import distributed
from beitv2_core.engine.trackers import flat
from beitv2_core.errors import ConfigError
from beitv2_core.launching.disagreement import clocks_apart, differences, versions

#: the end of settings that may differ: what a host reads with changes no number
OWN_SETTINGS = "num_workers"


def check_agreement(config: Mapping[str, Any], data: str | None) -> None:
    """ConfigError in every process where their versions, settings, images or clocks differ, saying which has what.

    config: the run's settings; data: what identifies its images.  Without others nothing is compared.
    """
    if distributed.world_size() == 1:
        return
    settings = {key: value for key, value in flat(config).items() if not key.endswith(OWN_SETTINGS)}
    distributed.barrier()  # so that the clocks are read at the same moment
    own = {"clock": time.time(), "facts": {**versions(), "images": data, **settings}}
    found = {f"process {rank}": json.loads(text)
             for rank, text in enumerate(distributed.all_texts(json.dumps(own, default=str)))}
    problem = differences({who: one["facts"] for who, one in found.items()})
    problem += clocks_apart({who: one["clock"] for who, one in found.items()})
    if problem:
        raise ConfigError("the processes of this launch disagree: " + "; ".join(problem) + ". All of them need the "
                          "same versions, settings and images, and clocks that agree.")


def check_common_step(step: int, folder: Path) -> None:
    """ConfigError in every process where they would go on after different steps."""
    steps = distributed.all_values(step)
    if len(set(steps)) > 1:
        raise ConfigError(
            f"{folder}: the processes would start after different steps ({steps}, in order of their ranks). The run "
            "folder must be the same for all of them: on several hosts, on a shared file system."
        )
