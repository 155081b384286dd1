"""The work that bench_core.py measures. Each case runs in a process of its own and returns raw measurements."""

from __future__ import annotations

import functools
import gc
import importlib
import resource
import sys
import time
from pathlib import Path
from typing import Any, Callable

MATMUL_SIDE = 2048
MATMUL_SECONDS = 4.0  # a neighbour's burst of a second or two must not hide the peak
BATCH = 8
NUM_MASKED, GRID = 75, (14, 14)
TOKENIZED, NUM_CODES, CODE_DIM = (64, 196), 8192, 32  # 64 x 196 = 12,544 tokens


def load_paddle() -> Any:
    """Paddle on the CPU, with the thread and MKL settings that `beitv2_core` makes before Paddle is loaded."""
    importlib.import_module("beitv2_core")
    paddle = importlib.import_module("paddle")
    paddle.set_device("cpu")
    paddle.seed(0)
    return paddle


def timed(work: Callable[[], Any], repeats: int, *, warm_up: int = 1) -> list[float]:
    """Seconds of each of `repeats` calls, after calls that do not count."""
    seconds = []
    for number in range(warm_up + repeats):
        began = time.perf_counter()
        work()
        if number >= warm_up:
            seconds.append(time.perf_counter() - began)
    return seconds


def peak_bytes() -> int:
    """The most memory this process ever had resident."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_bytes() -> int:
    """Memory resident now (Linux); elsewhere the peak."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return peak_bytes()
    return pages * resource.getpagesize()


def matmul_peak() -> dict[str, Any]:
    paddle = load_paddle()
    a, b = paddle.randn([MATMUL_SIDE, MATMUL_SIDE]), paddle.randn([MATMUL_SIDE, MATMUL_SIDE])
    began = time.perf_counter()
    seconds: list[float] = []
    while time.perf_counter() - began < MATMUL_SECONDS:
        seconds += timed(lambda: float(paddle.matmul(a, b)[0, 0]), 4, warm_up=0 if seconds else 2)
    return {"seconds": seconds}


def pretrain_step() -> dict[str, Any]:
    paddle = load_paddle()
    import paddle.nn.functional as F

    from beitv2_core.data import SampleRng
    from beitv2_core.engine.optim import build_optimizer
    from beitv2_core.masking import BlockwiseMasking
    from beitv2_core.models.mim import BEiTForMaskedImageModeling

    model = BEiTForMaskedImageModeling(image_size=224, patch_size=16, width=768, depth=12, num_heads=12,
                                       num_codes=NUM_CODES, early_layers=9, head_layers=2, share_lm_head=True,
                                       init_values=0.1, use_shared_rel_pos_bias=True)
    model.train()
    optimizer = build_optimizer("adamw", model, lr=1.5e-3, weight_decay=0.05, betas=(0.9, 0.98),
                                no_decay=model.no_weight_decay())
    masking = BlockwiseMasking(GRID, NUM_MASKED, min_block=16)
    masks = [masking(SampleRng.for_sample(0, 0, index)).reshape(-1) for index in range(BATCH)]
    mask = paddle.to_tensor([row.tolist() for row in masks])
    images = paddle.randn([BATCH, 3, 224, 224])
    codes = paddle.randint(0, NUM_CODES, [BATCH * NUM_MASKED])

    return timed_step(model, optimizer, lambda: paddle.add_n(
        [F.cross_entropy(logits, codes) for logits in model(images, mask).values()]))


def finetune_step() -> dict[str, Any]:
    paddle = load_paddle()
    from beitv2_cls.classifier import BEiTClassifier, layer_decay_scale
    from beitv2_cls.losses import soft_cross_entropy
    from beitv2_core.engine.optim import build_optimizer

    model = BEiTClassifier(num_classes=1000, image_size=224, patch_size=16, width=768, depth=12, num_heads=12,
                           init_values=0.1, use_rel_pos_bias=True, drop_path=0.1)
    model.train()
    optimizer = build_optimizer("adamw", model, lr=5e-4, weight_decay=0.05, no_decay=model.no_weight_decay(),
                                lr_scale=layer_decay_scale(model.depth, 0.65))
    images = paddle.randn([BATCH, 3, 224, 224])
    targets = paddle.nn.functional.softmax(paddle.randn([BATCH, 1000]), axis=-1)
    return timed_step(model, optimizer, lambda: soft_cross_entropy(model(images), targets))


def timed_step(model: Any, optimizer: Any, loss_of: Callable[[], Any]) -> dict[str, Any]:
    """Time of forward, backward and update, and the process's peak memory after them."""
    def step() -> None:
        loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        float(loss)

    seconds = timed(step, 3)
    parameters = sum(parameter.size for parameter in model.parameters())
    return {"seconds": seconds, "peak_bytes": peak_bytes(), "parameters": int(parameters)}


def quantizer() -> dict[str, Any]:
    paddle = load_paddle()
    from beitv2_core.models.quantizer import NormEMAQuantizer

    model = NormEMAQuantizer(NUM_CODES, CODE_DIM, kmeans_init=False)
    model.train()
    features = paddle.randn([*TOKENIZED, CODE_DIM])
    features.stop_gradient = False
    float(paddle.matmul(features[0], features[0], transpose_y=True).sum())  # loads the libraries: not the quantizer's
    gc.collect()
    # Nothing was larger than this so far, so that the peak from here on is the quantizer's own; where loading Paddle
    # took more for a moment, the kernel is asked to forget it.
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        pass
    before = resident_bytes()
    forward = timed(lambda: float(model(features).loss), 4)
    extra = peak_bytes() - before

    def with_backward() -> None:
        out = model(features)
        (out.loss + out.z_q.mean()).backward()
        features.clear_gradient()

    return {"seconds": forward, "with_backward": timed(with_backward, 3), "extra_bytes": extra}


def slide() -> dict[str, Any]:
    paddle = load_paddle()
    from beitv2_seg.backbone import BEiTv2
    from beitv2_seg.inference import slide_logits
    from beitv2_seg.segmentor import BEiTv2UPerNet

    model = BEiTv2UPerNet(150, BEiTv2(size="base", image_size=512))
    model.eval()
    image, found = paddle.randn([1, 3, 512, 683]), {}

    def read(together: int) -> None:
        found[together] = slide_logits(model, image, crop=(512, 512), stride=(341, 341), batch_size=together)

    seconds: dict[int, list[float]] = {1: [], 2: []}
    with paddle.no_grad():
        for number in range(4):  # in turns: both see the same machine
            for together in seconds:
                seconds[together] += timed(functools.partial(read, together), 1, warm_up=int(number == 0))
    return {"one_by_one": seconds[1], "seconds": seconds[2], "peak_bytes": peak_bytes(),
            "difference": float((found[1] - found[2]).abs().max())}


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "matmul_peak": matmul_peak, "pretrain_step": pretrain_step, "finetune_step": finetune_step, "quantizer": quantizer,
    "slide": slide}
