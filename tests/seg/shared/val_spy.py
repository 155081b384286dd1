# SPDX-License-Identifier: Apache-2.0
"""Run PaddleSeg's unmodified tools/val.py and keep the (label, prediction) pairs it counts.

    python val_spy.py COUNTS.npy PADDLESEG/tools/val.py --config ...
"""

from __future__ import annotations

import sys
from pathlib import Path

import beitv2_core  # noqa: F401  before paddle

if __name__ == "__main__":
    counts_file, script = sys.argv[1:3]
    sys.path.insert(0, str(Path(script).parent.parent))

    import numpy as np
    from paddleseg.utils import metrics

    from beitv2_seg.__main__ import main
    from beitv2_seg.reading.metrics import ConfusionMatrix

    count = metrics.calculate_area
    matrices = []

    def keep(prediction, label, num_classes, *more, **options):
        matrix = ConfusionMatrix(num_classes)
        matrix.add(prediction.numpy().reshape(-1), label.numpy().reshape(-1))
        matrices.append(matrix.counts)
        return count(prediction, label, num_classes, *more, **options)

    metrics.calculate_area = keep
    sys.argv = sys.argv[:1] + sys.argv[2:]
    main()
    np.save(counts_file, np.sum(matrices, axis=0))
