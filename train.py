# SPDX-License-Identifier: Apache-2.0
"""Train BEiT v2 + UPerNet with PaddleSeg's flags: python train.py --config beitv2_upernet.yml --save_dir OUTPUT ...

The same as `beitv2 segment train`, as a file that `python -m paddle.distributed.launch` can start.
"""

import sys

if __name__ == "__main__":
    from beitv2_core.cli import app

    app(["segment", "train", *sys.argv[1:]], prog_name="train.py")
