# SPDX-License-Identifier: Apache-2.0
"""Train BEiT v2 + UPerNet with PaddleSeg's flags: python train.py --config beitv2_upernet.yml --save_dir OUTPUT ..."""

from beitv2_seg.train import main

if __name__ == "__main__":
    main()
