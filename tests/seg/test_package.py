# SPDX-License-Identifier: Apache-2.0
"""The package stands on its own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata

import beitv2_seg


def test_version_is_the_installed_one():
    assert beitv2_seg.__version__ == metadata.version("beitv2-seg")


def test_flags_that_argparse_reads_are_completed_too():
    environment = {**os.environ, "_BEITV2_COMPLETE": "complete_bash", "COMP_WORDS": "beitv2 segment train --keep",
                   "COMP_CWORD": "3"}
    done = subprocess.run([sys.executable, "-m", "beitv2_core.cli"], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["--keep_checkpoint_max"], done.stderr
