# SPDX-License-Identifier: Apache-2.0
"""Fused attention (`BEITV2_FUSED_ATTENTION=1`) against the formula: outputs, gradients, time and memory.

Shapes of the base model at 224 and 384 pixels, with a relative position bias that is trained.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Optional

from cases.setting import load_paddle
from harness.timing import timed

from gpu_parts.report import largest, tested

#: of the largest value: twice what `fused_attention.TOLERANCES` allows an output, as gradients add two roundings
ALLOWED = {"float32": 2e-4, "bfloat16": 1e-1, "float16": 2e-2}


def attention(device: str, size: str, folder: Path) -> dict[str, Any]:
    """A check for every precision and image size."""
    paddle = load_paddle()

    if paddle.__version__.startswith("2."):
        return {"result": "not run", "reason": f"Paddle {paddle.__version__} has no such kernels; 3.0 and newer have"}
    checks = []
    for side in (224,) if size == "small" else (224, 384):
        for dtype in ALLOWED:
            name = f"{side} pixels, {dtype}"
            if device == "cpu" and dtype != "float32":
                checks.append({"name": name, "reason": "Paddle's kernels compute it on GPUs only"})
            else:
                checks.append({"name": name, **_compared(1 if size == "small" else 16, side, dtype)})
    return tested(checks)


def _compared(batch: int, side: int, dtype: str) -> dict[str, Any]:
    found = {}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for switch in ("0", "1"):
            os.environ["BEITV2_FUSED_ATTENTION"] = switch
            found[switch] = _measured(batch, side, dtype)
    refused = [str(one.message) for one in said if "BEITV2_FUSED_ATTENTION" in str(one.message)]
    plain, fused = found["0"], found["1"]
    worst = largest(float(abs(a - b).max()) / max(float(abs(a).max()), 1e-12)
                    for a, b in zip(plain["values"], fused["values"]))
    return {"difference": worst, "allowed": ALLOWED[dtype], "seconds of the formula": plain["seconds"],
            "seconds fused": fused["seconds"], "GB of the formula": plain["gb"], "GB fused": fused["gb"],
            **({"passed": False, "note": refused[0]} if refused else {})}


def _measured(batch: int, side: int, dtype: str) -> dict[str, Any]:
    """Output and gradients of queries, keys, values and bias as float32 arrays; seconds and memory of one call."""
    import numpy as np
    import paddle

    from beitv2_core.layers.attention import attention_weights
    from beitv2_core.layers.fast.fused_attention import fused_attention

    tokens, heads, width = (side // 16) ** 2 + 1, 12, 64
    draws = np.random.default_rng(0)

    def tensor(*shape: int) -> Any:
        made = paddle.to_tensor(draws.standard_normal(shape, dtype=np.float32)).astype(dtype)
        made.stop_gradient = False
        return made

    q, k, v = (tensor(batch, heads, tokens, width) for _ in range(3))
    bias = tensor(1, heads, tokens, tokens)
    outside = paddle.to_tensor(draws.standard_normal(q.shape, dtype=np.float32)).astype(dtype)
    output: list[Any] = []

    def once() -> None:
        for one in (q, k, v, bias):
            one.clear_gradient()
        out = fused_attention(q, k, v, bias, formula=attention_weights)
        if out is None:
            out = paddle.matmul(attention_weights(q, k, bias), v)
        (out * outside).sum().backward()
        output[:] = [out.detach()]
        float(bias.grad.astype("float32").flatten()[0])  # waits for the device

    once()
    gb = _forget_peak_gb()
    seconds = min(timed(once, 3, warm_up=0))
    values = [one.astype("float32").numpy() for one in (*output, q.grad, k.grad, v.grad, bias.grad)]
    return {"values": values, "seconds": seconds, "gb": None if gb is None else peak_gb()}


def peak_gb() -> Optional[float]:
    """The most memory of the GPU since the last `_forget_peak_gb`; None on the CPU."""
    import paddle

    if paddle.device.get_device() == "cpu":
        return None
    return float(paddle.device.cuda.max_memory_allocated()) / 2**30


def _forget_peak_gb() -> Optional[float]:
    import paddle

    if paddle.device.get_device() == "cpu":
        return None
    if hasattr(paddle.device.cuda, "reset_max_memory_allocated"):
        paddle.device.cuda.reset_max_memory_allocated()
    return peak_gb()
