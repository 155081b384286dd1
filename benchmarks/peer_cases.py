# SPDX-License-Identifier: Apache-2.0
"""The same work by Hugging Face transformers and by timm, on PyTorch, in the environment of `make bench-peers`.

    .venv-peers/bin/python benchmarks/peer_cases.py transformers_finetune_step

As ours: without compilation, random weights, AdamW with and without decay, the number of threads that OMP_NUM_THREADS
says; float32, or, in cases that end in _bf16, PyTorch's bfloat16 autocast.  Attention is what each library takes by
itself.  Layer-wise rates cost no time and are left out.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import metadata
from typing import Any, Callable

from harness.catalogue import BATCH, PEERS
from harness.flop import NUM_CODES, NUM_MASKED
from harness.timing import peak_bytes, timed

CLASSES, PATCHES, REPEATS = 1000, 196, 3


def load_torch() -> Any:
    """PyTorch with our number of threads and a fixed seed."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        # Both peers import it, and its compiled operators fit one build of PyTorch only.  BEiT needs none of them.
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    return torch


def timed_step(model: Any, loss_of: Callable[[], Any]) -> dict[str, Any]:
    """Time of forward, backward and update, and the process's peak memory after them."""
    import torch

    model.train()
    groups = [{"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.05},
              {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=5e-4)

    def step() -> None:
        loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    seconds = timed(step, REPEATS)
    return {"seconds": seconds, "peak_bytes": peak_bytes(), "parameters": sum(p.numel() for p in model.parameters())}


def classified(model: Any, logits_of: Callable[[Any], Any], *, bf16: bool = False) -> dict[str, Any]:
    """Fine-tuning step with soft targets; the backward pass is outside autocast, as PyTorch's documentation says."""
    torch = load_torch()
    images = torch.randn(BATCH, 3, 224, 224)
    targets = torch.randn(BATCH, CLASSES).softmax(-1)

    def loss_of() -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return torch.nn.functional.cross_entropy(logits_of(images), targets)

    return timed_step(model, loss_of)


def forwarded(model: Any, logits_of: Callable[[Any], Any], *, bf16: bool = False) -> dict[str, Any]:
    """Forward pass in evaluation mode, no gradient."""
    torch = load_torch()
    model.eval()
    images = torch.randn(BATCH, 3, 224, 224)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return {"seconds": timed(lambda: logits_of(images).float().numpy(), 5), "peak_bytes": peak_bytes()}


def transformers_classifier() -> tuple[Any, Callable[[Any], Any]]:
    """BeitForImageClassification, base: bias in every block, mean pooling, drop path 0.1."""
    load_torch()
    from transformers import BeitConfig, BeitForImageClassification

    model = BeitForImageClassification(BeitConfig(
        use_relative_position_bias=True, use_mean_pooling=True, layer_scale_init_value=0.1, drop_path_rate=0.1,
        num_labels=CLASSES))
    return model, lambda images: model(pixel_values=images).logits


def timm_classifier() -> tuple[Any, Callable[[Any], Any]]:
    """BEiT v2 base of timm, drop path 0.1."""
    load_torch()
    import timm

    model = timm.create_model("beitv2_base_patch16_224", pretrained=False, drop_path_rate=0.1, num_classes=CLASSES)
    return model, model


def transformers_pretrain_step() -> dict[str, Any]:
    """BeitForMaskedImageModeling, base: one head that classifies all 196 patches, no [CLS] head."""
    torch = load_torch()
    from transformers import BeitConfig, BeitForMaskedImageModeling

    model = BeitForMaskedImageModeling(BeitConfig(
        use_shared_relative_position_bias=True, use_mask_token=True, vocab_size=NUM_CODES, layer_scale_init_value=0.1,
        drop_path_rate=0.0))
    images = torch.randn(BATCH, 3, 224, 224)
    hidden = torch.rand(BATCH, PATCHES).argsort(-1) < NUM_MASKED
    codes = torch.randint(0, NUM_CODES, (BATCH * NUM_MASKED,))
    return timed_step(model, lambda: model(pixel_values=images, bool_masked_pos=hidden, labels=codes).loss)


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "transformers_pretrain_step": transformers_pretrain_step,
    "transformers_finetune_step": lambda: classified(*transformers_classifier()),
    "transformers_finetune_forward": lambda: forwarded(*transformers_classifier()),
    "timm_finetune_step": lambda: classified(*timm_classifier()),
    "timm_finetune_forward": lambda: forwarded(*timm_classifier()),
    "transformers_finetune_step_bf16": lambda: classified(*transformers_classifier(), bf16=True),
    "transformers_finetune_forward_bf16": lambda: forwarded(*transformers_classifier(), bf16=True),
    "timm_finetune_step_bf16": lambda: classified(*timm_classifier(), bf16=True),
    "timm_finetune_forward_bf16": lambda: forwarded(*timm_classifier(), bf16=True),
}


def versions() -> dict[str, str]:
    """Of PyTorch and of every peer that is installed."""
    found = {}
    for name in ("torch", *PEERS):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    print(json.dumps(versions() if sys.argv[1] == "--versions" else CASES[sys.argv[1]]()))
