# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of base size: images to codes, and its training step."""

from __future__ import annotations

from typing import Any

from harness.catalogue import BATCH
from harness.timing import peak_bytes, timed

from cases.setting import load_paddle, timed_step


def build_tokenizer() -> Any:
    """The published architecture that the paper pretrains with, with random codes."""
    from beitv2_core.models.vqkd import build_published

    return build_published("vqkd_encoder_base_decoder_3x768x12_clip", kmeans_init=False)


def encode() -> dict[str, Any]:
    paddle = load_paddle()
    model = build_tokenizer()
    model.eval()
    images = paddle.rand([BATCH, 3, 224, 224])
    return {"seconds": timed(lambda: model.tokenize(images).numpy(), 5), "peak_bytes": peak_bytes()}


def encode_bf16() -> dict[str, Any]:
    paddle = load_paddle()
    model = build_tokenizer()
    model.eval()
    images = paddle.rand([BATCH, 3, 224, 224])
    return {"seconds": timed(lambda: model.tokenize(images, amp="bf16").numpy(), 5), "peak_bytes": peak_bytes()}


def step() -> dict[str, Any]:
    """Random features stand for the teacher's, which is not measured."""
    paddle = load_paddle()
    from beitv2_core.engine.optim import build_optimizer

    model = build_tokenizer()
    model.train()
    optimizer = build_optimizer("adamw", model, lr=5e-5, weight_decay=1e-4, betas=(0.9, 0.99),
                                no_decay=model.no_weight_decay())
    images = paddle.rand([BATCH, 3, 224, 224])
    target = paddle.randn([BATCH, model.grid[0] * model.grid[1], model.teacher_width])
    return timed_step(model, optimizer, lambda: model(images, target)["loss"])
