# SPDX-License-Identifier: Apache-2.0
"""Images/s and memory of the paper's base-size steps, in every precision, with and without fused attention."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable

from cases.setting import load_paddle

from gpu_parts.attention import peak_gb
from gpu_parts.report import tail

BATCH = 64  # halved until it fits
CASES = (("off", "0"), ("bf16", "0"), ("fp16", "0"), ("bf16", "1"), ("fp16", "1"))


def speed(device: str, size: str, folder: Path) -> dict[str, Any]:
    """Best of the calls that were timed; forward, backward and AdamW of a training step, codes of the tokenizer."""
    load_paddle()
    from beitv2_core.layers.fast.products import why_not

    works: dict[str, Callable[[int, str, int], list[float]]] = {
        "pretraining step": _pretraining, "fine-tuning step": _finetuning, "tokenizer, codes": _codes}
    if size == "small":
        works = {"tokenizer, codes": _codes}
    checks: list[dict[str, Any]] = []
    for name, work in works.items():
        for amp, fused in CASES:
            label = f"{name}, {'float32' if amp == 'off' else amp}{', fused attention' if fused == '1' else ''}"
            reason = why_not(amp) or ("on GPUs only" if fused == "1" and device == "cpu" else None)
            if reason:
                checks.append({"name": label, "reason": reason})
                continue
            os.environ["BEITV2_FUSED_ATTENTION"] = fused
            checks.append({"name": label, **_fitting(work, amp, 1 if device == "cpu" else BATCH,
                                                     1 if device == "cpu" else 10)})
    failed = [one for one in checks if "error" in one]
    return {"result": "failed" if failed else "passed", "checks": checks, "largest_difference": None}


def _fitting(work: Callable[[int, str, int], list[float]], amp: str, batch: int, repeats: int) -> dict[str, Any]:
    """Measure with the batch, or with half of it as long as it does not fit."""
    import gc

    import paddle

    while True:
        if paddle.device.get_device() != "cpu" and hasattr(paddle.device.cuda, "reset_max_memory_allocated"):
            paddle.device.cuda.reset_max_memory_allocated()
        try:
            seconds = work(batch, amp, repeats)
            return {"batch": batch, "seconds": min(seconds), "images/s": batch / min(seconds), "GB": peak_gb()}
        except Exception as error:  # a kernel can raise anything; the next case shall still be measured
            said = tail(f"{type(error).__name__}: {error}")
            out_of_memory = "memory" in said.lower()
            if not out_of_memory or batch == 1:
                return {"batch": batch, "error": said.splitlines()[-1]}
        gc.collect()
        if paddle.device.get_device() != "cpu":
            paddle.device.cuda.empty_cache()
        batch //= 2


def _pretraining(batch: int, amp: str, repeats: int) -> list[float]:
    from cases.pretraining import build_pretraining
    from cases.setting import timed_step

    model, optimizer, loss_of = build_pretraining(batch)
    seconds: list[float] = timed_step(model, optimizer, lambda: loss_of(model), repeats, amp)["seconds"]
    return seconds


def _finetuning(batch: int, amp: str, repeats: int) -> list[float]:
    from cases.finetuning import step

    seconds: list[float] = step(batch, amp=amp, repeats=repeats)["seconds"]
    return seconds


def _codes(batch: int, amp: str, repeats: int) -> list[float]:
    from cases.tokenizer import build_tokenizer
    from harness.timing import timed

    paddle = load_paddle()
    model = build_tokenizer()
    model.eval()
    images = paddle.rand([batch, 3, 224, 224])
    return timed(lambda: model.tokenize(images, amp=amp).numpy(), repeats)
