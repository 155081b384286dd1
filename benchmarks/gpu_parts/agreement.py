# SPDX-License-Identifier: Apache-2.0
"""The same weights and images on the CPU and on the device: outputs and gradients in float32.

Where the device is the CPU, the second time computes by the operations that GPUs take (`BEITV2_PLAIN_LAYERS=1`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable

from cases.setting import load_paddle

from gpu_parts.report import tested

#: of the largest value of an output; convolutions and products of GPUs may use TF32, with 10 bits
ALLOWED = 5e-3
CODES_ALLOWED = 0.01  # share of the codes that may be others: nearly equal distances
#: a model, and what computes its outputs
Built = tuple[Any, Callable[[], dict[str, Any]]]


def agreement(device: str, size: str, folder: Path) -> dict[str, Any]:
    """Largest difference, as a share of the largest value, of pretraining, classifier, segmentor and tokenizer."""
    load_paddle()

    cases = {"tokenizer": _tokenizer, "pretraining": _pretraining, "classifier": _classifier, "segmentor": _segmentor}
    if size == "small":
        cases = {name: cases[name] for name in ("tokenizer", "pretraining")}
    checks = []
    for name, build in cases.items():
        expected, got = _computed(build, "cpu", plain=False), _computed(build, device, plain=True)
        for output, values in expected.items():
            checks.append({"name": f"{name}: {output}", **_difference(values, got[output], output)})
    return tested(checks)


def _difference(expected: Any, got: Any, output: str) -> dict[str, float]:
    if output == "codes":
        return {"difference": float((expected != got).mean()), "allowed": CODES_ALLOWED}
    return {"difference": float(abs(expected - got).max() / max(float(abs(expected).max()), 1e-12)), "allowed": ALLOWED}


def _computed(build: Callable[[], Built], device: str, *, plain: bool) -> dict[str, Any]:
    """Outputs of a model that was built and filled on the CPU, computed on the device."""
    import paddle

    paddle.set_device("cpu")
    paddle.seed(0)
    os.environ["BEITV2_PLAIN_LAYERS"] = "1" if plain and device == "cpu" else "0"
    model, work = build()
    values = {name: value.numpy() for name, value in model.state_dict().items()}
    paddle.set_device(device)
    if device != "cpu":
        model, work = build()
        model.set_state_dict(values)
    found = {name: value.numpy() for name, value in work().items()}
    paddle.set_device("cpu")
    return found


def _images(batch: int, side: int = 224) -> Any:
    import numpy as np
    import paddle

    return paddle.to_tensor(np.random.default_rng(0).standard_normal((batch, 3, side, side), dtype=np.float32))


def _with_gradients(model: Any, forward: Callable[[], Any]) -> dict[str, Any]:
    """An output, its mean square's gradient at the patch embedding, and the norm of all gradients."""
    import paddle

    output = forward()
    output.square().mean().backward()
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    first = next(name for name in gradients if "patch_embed" in name)
    norm = paddle.sqrt(paddle.add_n([paddle.square(one).sum() for one in gradients.values()]))
    return {"output": output.detach(), f"gradient of {first}": gradients[first], "norm of all gradients": norm}


def _tokenizer() -> Built:
    from cases.tokenizer import build_tokenizer

    model = build_tokenizer()
    model.eval()
    return model, lambda: {"codes": model.tokenize(_images(2))}


def _pretraining() -> Built:
    from cases.pretraining import build_model, masks

    model = build_model()
    model.train()

    def both_heads() -> Any:
        import paddle

        return paddle.concat(list(model(_images(2), masks(2)).values()))

    return model, lambda: _with_gradients(model, both_heads)


def _classifier() -> Built:
    from cases.finetuning import build_classifier

    model = build_classifier(drop_path=0.0)
    model.train()
    return model, lambda: _with_gradients(model, lambda: model(_images(2)))


def _segmentor() -> Built:
    import paddle
    from cases.segmentation import build_segmentor

    model = build_segmentor()
    model.eval()

    def logits() -> dict[str, Any]:
        with paddle.no_grad():
            return {"logits": model(_images(1, 512))[0]}

    return model, logits
