# SPDX-License-Identifier: Apache-2.0
"""PaddleSeg's `train.py --config beitv2_upernet.yml`, on core's loop: what the script at the root of the tree runs."""

from __future__ import annotations

import sys


def main() -> None:
    """`beitv2 segment train` with the flags of the command line."""
    from beitv2_core.cli import app

    app(["segment", "train", *sys.argv[1:]], prog_name="train.py")
