# SPDX-License-Identifier: Apache-2.0
"""The matmul peak and the quantizer alone."""

from __future__ import annotations

import gc
import time
from typing import Any

from harness.catalogue import MATMUL_SIDE
from harness.flop import CODE_DIM, NUM_CODES
from harness.timing import forget_peak, peak_bytes, resident_bytes, timed

from cases.setting import load_paddle

MATMUL_SECONDS = 3.0  # a neighbour's burst of a second or two must not hide the peak
TOKENIZED = (64, 196)  # 64 images: 12,544 tokens


def matmul_peak() -> dict[str, Any]:
    paddle = load_paddle()
    a, b = paddle.randn([MATMUL_SIDE, MATMUL_SIDE]), paddle.randn([MATMUL_SIDE, MATMUL_SIDE])
    began = time.perf_counter()
    seconds: list[float] = []
    while time.perf_counter() - began < MATMUL_SECONDS:
        seconds += timed(lambda: float(paddle.matmul(a, b)[0, 0]), 4, warm_up=0 if seconds else 2)
    return {"seconds": seconds}


def matmul_peak_bf16() -> dict[str, Any]:
    """As `matmul_peak`, of bfloat16 numbers with float32 sums, by oneDNN."""
    paddle = load_paddle()
    from beitv2_core.layers.fast.products import operand, product

    a, b = (operand(paddle.randn([MATMUL_SIDE, MATMUL_SIDE]), True) for _ in range(2))
    began = time.perf_counter()
    seconds: list[float] = []
    while time.perf_counter() - began < MATMUL_SECONDS:
        seconds += timed(lambda: float(product(a, b, True)[0, 0]), 4, warm_up=0 if seconds else 2)
    return {"seconds": seconds}


def quantizer(tokens: tuple[int, int] = TOKENIZED, num_codes: int = NUM_CODES, repeats: int = 4) -> dict[str, Any]:
    """Training mode: nearest code, loss and the codebook's move; then with the backward pass."""
    paddle = load_paddle()
    from beitv2_core.models.quantizer import NormEMAQuantizer

    model = NormEMAQuantizer(num_codes, CODE_DIM, kmeans_init=False)
    model.train()
    features = paddle.randn([*tokens, CODE_DIM])
    features.stop_gradient = False
    float(paddle.matmul(features[0], features[0], transpose_y=True).sum())  # loads the libraries: not the quantizer's
    gc.collect()
    # Nothing was larger than this so far, so that the peak from here on is the quantizer's own; where loading Paddle
    # took more for a moment, the kernel is asked to forget it.
    forget_peak()
    before = resident_bytes()
    forward = timed(lambda: float(model(features).loss), repeats)
    extra = peak_bytes() - before

    def with_backward() -> None:
        out = model(features)
        (out.loss + out.z_q.mean()).backward()
        features.clear_gradient()

    return {"seconds": forward, "with_backward": timed(with_backward, repeats - 1), "extra_bytes": extra}
