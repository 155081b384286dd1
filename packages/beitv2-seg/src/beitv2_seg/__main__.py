"""Run a script of a PaddleSeg checkout with BEiT v2 registered.

    python -m beitv2_seg PADDLESEG/tools/train.py --config configs/seg/beitv2_upernet.yml --device cpu ...

Train, val, predict and export alike, from any folder.  On several processes the command `beitv2-paddleseg`, which is
the same, follows `python -m paddle.distributed.launch`, because the launcher starts no modules.
"""

from __future__ import annotations

import sys

from beitv2_core.checkout import Project  # before Paddle: importing core sets threads and the MKL path

PADDLESEG = Project("PaddleSeg", package="paddleseg", sign="cvlibs/manager.py",
                    scripts=("train.py", "val.py", "predict.py", "export.py"),
                    url="https://github.com/PaddlePaddle/PaddleSeg")


def register(script: str) -> None:
    """Make our components known to the checkout's `paddleseg`; ConfigError for a YAML it would read half."""
    from beitv2_seg.adapter import register as register_components
    from beitv2_seg.config import refuse_for_paddleseg

    for path in sys.argv[sys.argv.index("--config") + 1:][:1] if "--config" in sys.argv else ():
        refuse_for_paddleseg(path)

    register_components()


def main() -> None:
    """Import the checkout's package, register, then run its unmodified script."""
    PADDLESEG.run(register, "beitv2_seg")


if __name__ == "__main__":
    main()
