# SPDX-License-Identifier: Apache-2.0
"""UPerNet with the base backbone, 150 classes, 512 pixels: training step and sliding windows."""

from __future__ import annotations

from typing import Any

from harness.timing import peak_bytes, timed_in_turns

from cases.setting import load_paddle, timed_step

CLASSES, SIZE = 150, 512


def build_segmentor(drop_path: float = 0.0) -> Any:
    """The model of the paper's recipe."""
    from beitv2_seg.model.backbone import BEiTv2
    from beitv2_seg.model.segmentor import BEiTv2UPerNet

    return BEiTv2UPerNet(CLASSES, BEiTv2(size="base", image_size=SIZE, drop_path=drop_path))


def step(amp: str = "off") -> dict[str, Any]:
    """Both heads' losses, layer-wise rates; one image."""
    paddle = load_paddle()
    from beitv2_seg.model.losses import pixel_cross_entropy
    from beitv2_seg.training.optim import BEiTv2AdamW

    model = build_segmentor(drop_path=0.1)
    model.train()
    optimizer = BEiTv2AdamW()(model, 3e-5)
    images = paddle.randn([1, 3, SIZE, SIZE])
    labels = paddle.randint(0, CLASSES, [1, SIZE, SIZE])

    def loss_of() -> Any:
        decoded, auxiliary = model(images)
        return pixel_cross_entropy(decoded, labels) + 0.4 * pixel_cross_entropy(auxiliary, labels)

    return timed_step(model, optimizer, loss_of, repeats=2, amp=amp)  # memory still grows in the first of them


def step_bf16() -> dict[str, Any]:
    return step("bf16")


def slide() -> dict[str, Any]:
    """The image's two windows together and one by one, in turns, so that both see the same machine."""
    paddle = load_paddle()
    from beitv2_seg.reading.paddle_segmenter import PaddleSegmenter
    from beitv2_seg.reading.windows import Windows, slide_logits

    model = build_segmentor()
    model.eval()
    image, found = paddle.randn([1, 3, SIZE, 683]), {}

    def read(together: int) -> None:
        found[together] = slide_logits(PaddleSegmenter(model), image, Windows((SIZE, SIZE), (341, 341), together))

    with paddle.no_grad():
        model(image[:, :, :, :SIZE])  # warms up; the best of two rounds does the rest
        seconds = timed_in_turns({"one_by_one": lambda: read(1), "seconds": lambda: read(2)}, 2, warm_up=0)
    return {**seconds, "peak_bytes": peak_bytes(),
            "difference": float((found[1] - found[2]).abs().max())}
