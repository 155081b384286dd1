# SPDX-License-Identifier: Apache-2.0
"""The classifier of base size: bias in every block, drop path 0.1, 1000 classes, layer decay."""

from __future__ import annotations

from typing import Any

from harness.catalogue import BATCH
from harness.timing import peak_bytes, timed, timed_in_turns

from cases.setting import REPEATS, load_paddle, timed_step

CLASSES = 1000


def build_classifier(image_size: int = 224, *, recompute: bool = False, drop_path: float = 0.1) -> Any:
    """The model of the paper's recipe."""
    from beitv2_cls.classifier import BEiTClassifier

    return BEiTClassifier(num_classes=CLASSES, image_size=image_size, patch_size=16, width=768, depth=12, num_heads=12,
                          init_values=0.1, use_rel_pos_bias=True, drop_path=drop_path, recompute=recompute)


def step(batch: int = BATCH, image_size: int = 224, *, recompute: bool = False, amp: str = "off",
         repeats: int = REPEATS) -> dict[str, Any]:
    paddle = load_paddle()
    from beitv2_cls.losses import soft_cross_entropy
    from beitv2_core.engine.optim import build_optimizer, layer_decay_scale

    model = build_classifier(image_size, recompute=recompute)
    model.train()
    optimizer = build_optimizer("adamw", model, lr=5e-4, weight_decay=0.05, no_decay=model.no_weight_decay(),
                                lr_scale=layer_decay_scale(model.depth, 0.65))
    images = paddle.randn([batch, 3, image_size, image_size])
    targets = paddle.nn.functional.softmax(paddle.randn([batch, CLASSES]), axis=-1)
    return timed_step(model, optimizer, lambda: soft_cross_entropy(model(images), targets), repeats, amp)


def step_bf16() -> dict[str, Any]:
    return step(amp="bf16")


def recomputed() -> dict[str, Any]:
    return step(recompute=True)


def forward(amp: str = "off") -> dict[str, Any]:
    """Evaluation mode, no gradient."""
    paddle = load_paddle()
    from beitv2_core.layers.fast.products import mixed_precision

    model = build_classifier()
    model.eval()
    images = paddle.randn([BATCH, 3, 224, 224])
    with paddle.no_grad(), mixed_precision(amp):
        return {"seconds": timed(lambda: model(images).numpy(), 5), "peak_bytes": peak_bytes()}


def forward_bf16() -> dict[str, Any]:
    return forward("bf16")


def static_graph() -> dict[str, Any]:
    """One static graph (`paddle.jit.to_static`) in turns with eager mode: forward; forward and backward."""
    paddle = load_paddle()
    model = build_classifier(drop_path=0.0)  # a graph would keep the first draw
    images = paddle.randn([BATCH, 3, 224, 224])

    class Graph(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Any) -> Any:
            return self.model(x)

    def backward(network: Any) -> None:
        loss = network(images).mean()
        loss.backward()
        float(loss)
        model.clear_gradients()

    def in_turns(work: Any) -> dict[str, list[float]]:
        graph = paddle.jit.to_static(Graph(), full_graph=True)
        return timed_in_turns({"eager": lambda: work(model), "graph": lambda: work(graph)}, 3)

    model.eval()
    with paddle.no_grad():
        forward = in_turns(lambda network: network(images).numpy())
    model.train()
    return {"forward": forward, "training": in_turns(backward)}


def forward_backward(image_size: int) -> dict[str, Any]:
    """One image of any size, forward and backward, no update."""
    paddle = load_paddle()
    model = build_classifier(image_size)
    model.train()
    images = paddle.randn([1, 3, image_size, image_size])

    def work() -> None:
        loss = model(images).mean()
        loss.backward()
        float(loss)
        model.clear_gradients()

    return {"seconds": timed(work, 3), "peak_bytes": peak_bytes()}
