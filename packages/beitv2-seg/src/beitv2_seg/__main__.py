# SPDX-License-Identifier: Apache-2.0
"""Run a script of a PaddleSeg checkout with BEiT v2 registered.

    python -m beitv2_seg PADDLESEG/tools/train.py --config configs/seg/beitv2_upernet.yml --device cpu ...

Train, val, predict and export alike, from any folder.  The launcher of several processes starts no modules; it is
given the path of a command that is the same: python -m paddle.distributed.launch ... $(command -v beitv2-paddleseg) ...
"""

from __future__ import annotations

import argparse
import sys

from beitv2_core.commands.checkout import Project  # before Paddle: importing core sets threads and the MKL path

PADDLESEG = Project("PaddleSeg", package="paddleseg", sign="cvlibs/manager.py",
                    scripts=("train.py", "val.py", "predict.py", "export.py"),
                    url="https://github.com/PaddlePaddle/PaddleSeg")


def register(script: str) -> None:
    """Make our components known to the checkout's `paddleseg`; ConfigError for a YAML file with keys of our loop."""
    from beitv2_seg.config import refuse_for_paddleseg
    from beitv2_seg.paddleseg.adapter import register as register_components

    register_components()
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config")
    config = parser.parse_known_args(sys.argv[2:])[0].config
    if config is not None:
        refuse_for_paddleseg(config)


def main() -> None:
    """Import the checkout's package, register, then run its unmodified script."""
    PADDLESEG.run(register, "beitv2_seg")


if __name__ == "__main__":
    main()
