# SPDX-License-Identifier: Apache-2.0
"""What it costs to compare the state of the processes, at base size: python benchmarks/state_sums.py [--batch-size 8]

Takes the sums of weights, codebook and moments of a pretraining run (`engine/agreement.py`) and one training step on
drawn images, and prints both times and their ratio at train.check_every, as one JSON row.
"""

from __future__ import annotations

import argparse
import json
import time

import beitv2_core  # noqa: F401  before paddle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=8, help="images of the step that is timed (default: 8)")
    parser.add_argument("--width", type=int, default=768, help="of the backbone (default: 768, base)")
    parser.add_argument("--depth", type=int, default=12, help="of the backbone (default: 12, base)")
    asked = parser.parse_args()
    import numpy as np
    import paddle

    from beitv2_core.config.sections import TrainConfig
    from beitv2_core.engine.agreement import digests
    from beitv2_core.engine.optim import build_optimizer, moments
    from beitv2_core.models.mim import BEiTForMaskedImageModeling

    paddle.seed(0)
    model = BEiTForMaskedImageModeling(width=asked.width, depth=asked.depth, num_heads=asked.width // 64,
                                       image_size=224, patch_size=16, num_codes=8192,
                                       early_layers=9 * asked.depth // 12, head_layers=2)
    optimizer = build_optimizer("adamw", model, lr=1e-4, weight_decay=0.05)
    images = paddle.randn([asked.batch_size, 3, 224, 224])
    mask = np.zeros((asked.batch_size, 196), dtype=bool)
    mask[:, :75] = True

    def step() -> None:
        paddle.add_n([logits.mean() for logits in model(images, mask).values()]).backward()
        optimizer.step()
        optimizer.clear_grad()
        float(next(iter(model.parameters())).sum())

    state: dict[str, paddle.Tensor] = {}

    def sums() -> None:
        digests(state).numpy()

    step()
    state.update({**model.state_dict(), **moments(optimizer, model)})
    seconds = {}
    for name, call in (("step", step), ("sums", sums)):
        times = []
        for _ in range(3):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        seconds[name] = sorted(times)[1]
    every = TrainConfig.model_fields["check_every"].default
    size = sum(int(value.size) * value.element_size() for value in state.values())
    print(json.dumps({"state_gb": round(size / 1e9, 3), "tensors": len(state), "sums_s": round(seconds["sums"], 4),
                      "step_s": round(seconds["step"], 3), "batch_size": asked.batch_size, "check_every": every,
                      "share_of_training_percent": round(100 * seconds["sums"] / every / seconds["step"], 4),
                      "device": paddle.device.get_device(), "paddle": paddle.__version__}))


if __name__ == "__main__":
    main()
