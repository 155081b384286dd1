# SPDX-License-Identifier: Apache-2.0
"""The pretraining step of base size: [CLS] head after block 9, 8192 codes, 75 of 196 patches hidden."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

from harness.catalogue import BATCH
from harness.flop import NUM_CODES, NUM_MASKED
from harness.timing import timed_in_turns

from cases.setting import load_paddle, step_of, timed_step

GRID = (14, 14)


class Pretraining(NamedTuple):
    """A model in training with its optimizer; `loss_of(network)` takes the model or a wrapper of it."""

    model: Any
    optimizer: Any
    loss_of: Callable[[Any], Any]


def build_model(*, recompute: bool = False, width: int = 768, depth: int = 12, num_heads: int = 12,
                early_layers: int = 9) -> Any:
    """The model that is trained, of the paper's recipe; base size unless said otherwise."""
    from beitv2_core.models.skip_unread import SkipUnread

    return SkipUnread(image_size=224, patch_size=16, width=width, depth=depth, num_heads=num_heads,
                      num_codes=NUM_CODES, early_layers=early_layers, head_layers=2, share_lm_head=True,
                      init_values=0.1, use_shared_rel_pos_bias=True, recompute=recompute)


def build_pretraining(batch: int = BATCH, **options: Any) -> Pretraining:
    """Without tokenizer, clipping and data loading; options: as `build_model` takes them."""
    paddle = load_paddle()
    import paddle.nn.functional as F

    from beitv2_core.engine.optim import build_optimizer

    model = build_model(**options)
    model.train()
    optimizer = build_optimizer("adamw", model, lr=1.5e-3, weight_decay=0.05, betas=(0.9, 0.98),
                                no_decay=model.no_weight_decay())
    mask = masks(batch)
    images = paddle.randn([batch, 3, 224, 224])
    codes = paddle.randint(0, NUM_CODES, [batch * NUM_MASKED])

    def loss_of(network: Any) -> Any:
        return paddle.add_n([F.cross_entropy(logits, codes) for logits in network(images, mask).values()])

    return Pretraining(model, optimizer, loss_of)


def masks(batch: int) -> Any:
    """Masks (batch, patches) as the pretraining data have them."""
    import numpy as np

    from beitv2_core.data import SampleRng
    from beitv2_core.masking import BlockwiseMasking

    masking = BlockwiseMasking(GRID, NUM_MASKED, min_block=16)
    return np.stack([masking(SampleRng.for_sample(0, 0, index)).reshape(-1) for index in range(batch)])


def _measured(amp: str = "off", **options: Any) -> dict[str, Any]:
    model, optimizer, loss_of = build_pretraining(**options)
    return timed_step(model, optimizer, lambda: loss_of(model), amp=amp)


def step() -> dict[str, Any]:
    return _measured()


def step_bf16() -> dict[str, Any]:
    return _measured("bf16")


def skipping() -> dict[str, Any]:
    """One model's steps in turns, with and without skipping the tokens that no head reads."""
    model, optimizer, loss_of = build_pretraining()
    from beitv2_core.models.mim import BEiTForMaskedImageModeling

    def all_tokens(images: Any, mask: Any) -> Any:
        return BEiTForMaskedImageModeling.forward(model, images, mask)

    return timed_in_turns({"seconds": step_of(optimizer, lambda: loss_of(model)),
                           "all_tokens": step_of(optimizer, lambda: loss_of(all_tokens))}, 7)


def update() -> dict[str, Any]:
    """AdamW alone on the model's parameter arrays, in turns with AdamW on one array as large as all of them."""
    model, optimizer, _ = build_pretraining()
    import paddle

    from beitv2_core.engine.optim import build_optimizer

    parameters = [one for one in model.parameters() if not one.stop_gradient]
    together = paddle.nn.Layer()
    together.flat = together.create_parameter([sum(one.size for one in parameters)])
    fused = build_optimizer("adamw", together, lr=1.5e-3, weight_decay=0.05, betas=(0.9, 0.98))
    for one in [*parameters, together.flat]:
        one.grad = 1e-3 * paddle.randn(one.shape)

    def all_arrays() -> None:
        optimizer.step()
        float(parameters[-1].flatten()[0])

    def one_array() -> None:  # a real one would first have to gather the gradients
        fused.step()
        float(together.flat[0])

    def gather() -> None:
        float(paddle.concat([one.grad.flatten() for one in parameters])[0])

    return timed_in_turns({"seconds": all_arrays, "one_array": one_array, "gather": gather}, 5)


def recomputed() -> dict[str, Any]:
    return _measured(recompute=True)


def with_tokenizer() -> dict[str, Any]:
    """The task as it trains: codes of the second view, both losses, accuracies."""
    model, optimizer, _ = build_pretraining()
    import numpy as np

    from beitv2_core.data.views.recipes import MimBatch
    from beitv2_core.engine.tasks.mim_task import MimTask
    from cases.tokenizer import build_tokenizer

    task, draws = MimTask(model, build_tokenizer()), np.random.default_rng(0)
    views = [draws.random((BATCH, 3, 224, 224), dtype=np.float32) for _ in range(2)]
    batch = MimBatch(views[0], views[1], masks(BATCH), [""] * BATCH)
    return timed_step(model, optimizer, lambda: task.loss(batch, step=0)[0])
