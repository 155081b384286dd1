# SPDX-License-Identifier: Apache-2.0
"""Several commands of `beitv2`, one after the other, in one process or in each process of a launch.

    python commands.py FILE     # JSON: a list of lists of arguments
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from beitv2_core import cli

if __name__ == "__main__":
    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        cli.app(arguments, standalone_mode=False)
