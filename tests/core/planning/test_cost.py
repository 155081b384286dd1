# SPDX-License-Identifier: Apache-2.0
"""The formulas of memory and work against built models and against the tensors Paddle really saves."""

from __future__ import annotations

from pathlib import Path

import paddle
import paddle.nn.functional as F
import pytest
import yaml
from plain_layers import use_plain_layers

from beitv2_core.assembly.costs import plan_tokenizer, planned_run, tokenizer_costs
from beitv2_core.assembly.dry_run import saved_for_backward
from beitv2_core.assembly.models import build_mim, build_teacher, build_tokenizer
from beitv2_core.config import load_config, parse_config
from beitv2_core.layers.block import Block
from beitv2_core.planning.cost import Cost, LayerCosts, total

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
#: patches along a side, width, depth, heads, batch
SIZES = {"small": (3, 48, 2, 3, 4), "larger": (6, 128, 4, 4, 2)}
RUN = {"output": "none", "optim": {"lr": 1.0, "steps": 1}, "train": {"batch_size": 2}}


def data(side: int) -> dict:
    return {"dataset": "digit_scenes", "size": 8, "image_size": 8 * side}


def tokenizer_config(size: str, **more):
    side, width, depth, heads, _ = SIZES[size]
    trunk = {"width": width, "depth": depth, "num_heads": heads}
    return parse_config({**RUN, "kind": "tokenizer", "data": data(side), "encoder": {**trunk, "patch_size": 8},
                         "decoder": {**trunk, "depth": 1}, "quantizer": {"num_codes": 32, "code_dim": 8},
                         "teacher": {"name": "hog"}, **more})


def pretrain_config(size: str, tmp_path, recompute: bool = False, **model):
    side, width, depth, heads, _ = SIZES[size]
    path = tmp_path / "tokenizer.yml"
    path.write_text(yaml.safe_dump(tokenizer_config(size).resolved()), encoding="utf-8")
    return parse_config({
        **RUN, "kind": "pretrain", "data": data(side), "train": {"batch_size": 2, "recompute": recompute},
        "tokenizer": {"weights": str(path)}, "mask": {"num_masked": side, "min_block": 1},
        "model": {"width": width, "depth": depth, "num_heads": heads, "patch_size": 8, "init_values": 0.1,
                  "positions": "shared_relative", "early_layers": depth - 1, "head_layers": 1, **model}})


def planned(config):
    return planned_run(config, images=10**6, devices=1)


def trained(config) -> Cost:
    return planned(config).costs(LayerCosts())[0]


def built(config):
    return build_mim(config.model, image_size=config.data.image_size, num_codes=32, recompute=config.train.recompute)


def trainable(model) -> int:
    return sum(parameter.size for parameter in model.parameters() if not parameter.stop_gradient)


def buffer_bytes(model) -> int:
    return sum(tensor.size * tensor.element_size() for tensor in model.buffers())


@pytest.mark.parametrize("changes", [{}, {"early_layers": None}, {"share_lm_head": False}, {"positions": "relative"},
                                     {"positions": "absolute", "qkv_bias": False, "init_values": None},
                                     {"mlp_ratio": 2.5}])
def test_a_pretraining_model_has_the_planned_parameters_and_buffers(tmp_path, changes):
    config = pretrain_config("small", tmp_path, **changes)
    model, cost = built(config), trained(config)
    tokenizer = build_tokenizer(tokenizer_config("small"), teacher_width=hog().width)
    assert planned(config).parameters == (trainable(model), trainable(tokenizer))
    assert cost.buffer_bytes == buffer_bytes(model)


def hog():
    return build_teacher(tokenizer_config("small").teacher, image_size=24, patch_size=8)


def test_a_tokenizer_has_the_planned_parameters_and_buffers():
    config = tokenizer_config("small")
    teacher = build_teacher(config.teacher, image_size=24, patch_size=8)
    model, cost = build_tokenizer(config, teacher_width=teacher.width), trained(config)
    assert planned(config).parameters == (trainable(model), 0)
    assert cost.buffer_bytes == buffer_bytes(model)


def test_counting_a_model_draws_nothing_and_leaves_the_next_models_their_values():
    paddle.seed(3)
    expected = paddle.rand([4]).numpy()
    paddle.seed(3)
    planned(tokenizer_config("small"))
    assert (paddle.rand([4]).numpy() == expected).all()
    block = Block(48, 3, init_values=0.1)
    assert all(parameter._is_initialized() for parameter in block.parameters())


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("drop_path", [0.0, 0.2])
@pytest.mark.parametrize("head", [{}, {"early_layers": None}, "last"], ids=["cls", "mim", "cls from the last block"])
@pytest.mark.parametrize("size", SIZES)
def test_pretraining_saves_what_the_formula_says(monkeypatch, tmp_path, size, head, drop_path, recompute):
    use_plain_layers(monkeypatch)
    head = {"early_layers": SIZES[size][2]} if head == "last" else head
    config = pretrain_config(size, tmp_path, recompute, drop_path=drop_path, **head)
    side, batch, model, cost = SIZES[size][0], SIZES[size][4], built(config), trained(config)
    images = paddle.randn([batch, 3, 8 * side, 8 * side])
    mask = paddle.to_tensor([[i < side for i in range(side * side)]] * batch)
    codes = paddle.zeros([batch * side], dtype="int64")
    counted = saved_for_backward(model, lambda: total_loss(model(images, mask), codes))
    assert cost.bytes_after_forward(batch, recompute) == pytest.approx(counted, rel=0.05)


def total_loss(logits, codes):
    return paddle.add_n([F.cross_entropy(part, codes) for part in logits.values()])


@pytest.mark.parametrize("size", SIZES)
def test_a_recomputed_block_builds_up_what_the_formula_says(monkeypatch, tmp_path, size):
    use_plain_layers(monkeypatch)
    config = pretrain_config(size, tmp_path)
    side, width, _, _, batch = SIZES[size]
    model, tokens = built(config), side * side + 1
    x = paddle.randn([batch, tokens, width])
    x.stop_gradient = False
    counted = saved_for_backward(model, lambda: model.blocks[0](x, model.shared_bias()))
    cost, block_input = trained(config), batch * tokens * width * 4
    inside = cost.peak_bytes(batch, recompute=True) - cost.bytes_after_forward(batch, recompute=True)
    assert inside + block_input == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("read", [None, 5, 20])
def test_a_block_saves_what_the_formula_says_of_the_tokens_that_are_read(monkeypatch, read):
    use_plain_layers(monkeypatch)
    batch, tokens, width, heads = 4, 37, 48, 3
    block = Block(width, heads, init_values=0.1, drop_path=0.2)
    x = paddle.randn([batch, tokens, width])
    bias = paddle.randn([1, heads, tokens, tokens])
    x.stop_gradient = bias.stop_gradient = False
    rows = None if read is None else paddle.arange(read).expand([batch, read])
    counted = saved_for_backward(block, lambda: block(x, bias, rows))
    cost = LayerCosts().block(tokens, width, heads, 4 * width, drop_path=True, read=read)
    assert cost.bytes_after_forward(batch, recompute=False) == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_tokenizer_training_saves_what_the_formula_says(monkeypatch, size, recompute):
    use_plain_layers(monkeypatch)
    config = tokenizer_config(size, train={"batch_size": 2, "recompute": recompute})
    side, batch = SIZES[size][0], SIZES[size][4]
    teacher = build_teacher(config.teacher, image_size=8 * side, patch_size=8)
    model, cost = build_tokenizer(config, teacher_width=teacher.width), trained(config)
    model.train()
    images = paddle.rand([batch, 3, 8 * side, 8 * side])
    target = teacher(images)
    counted = saved_for_backward(model, lambda: model(images, target)["loss"])
    assert cost.bytes_after_forward(batch, recompute) == pytest.approx(counted, rel=0.05)


def test_the_count_sees_a_tensor_once_and_no_weights():
    layer = paddle.nn.Linear(8, 8)
    x = paddle.randn([4, 8])
    x.stop_gradient = False
    # the product saves x and its weight; the square its input
    assert saved_for_backward(layer, lambda: paddle.square(layer(x)).sum() + paddle.square(x).sum()) == 2 * 4 * 8 * 4


def test_mixed_precision_keeps_the_attention_weights_twice_and_halves_what_products_read():
    tokens, width, heads = 10, 32, 4
    full, mixed = (LayerCosts(amp).block(tokens, width, heads, 4 * width) for amp in (False, True))
    td, table = tokens * width, heads * tokens * tokens
    statistics = 2 * 2 * tokens * 4
    assert full.kept_bytes == 4 * (18 * td + table) + statistics
    assert mixed.kept_bytes == 4 * 4 * td + 2 * 14 * td + 6 * table + statistics


def test_work_a_image_is_that_of_the_official_models():
    given = ["data.root=none", "tokenizer.weights=none"]
    vqkd = load_config(CONFIGS / "tokenizer/vqkd_base_3x768x12_clip.yml", ["data.root=none"])
    encode = tokenizer_costs(LayerCosts(), plan_tokenizer(vqkd))[0]
    assert encode.forward_flop / 1e9 == pytest.approx(35.5, rel=0.02)
    step = trained(load_config(CONFIGS / "pretrain/base_300e.yml", given)).official_flop(recompute=False)
    assert step / 1e9 == pytest.approx(128.3, rel=0.02)


def test_a_block_of_which_some_tokens_are_read_skips_the_work_of_the_others():
    tokens, read, width = 10, 3, 32
    every, some = (LayerCosts().block(tokens, width, 4, 128, read=count) for count in (None, read))
    assert every.skipped_flop == 0
    assert every.forward_flop - some.forward_flop == some.skipped_flop
    # keys and values of all; queries, attention, projection and MLP of those that are read
    assert some.forward_flop == 2 * tokens * width * 2 * width + read * (2 * width * 10 * width + 4 * tokens * width)
    for recompute in (False, True):
        assert some.official_flop(recompute) == every.step_flop(recompute)


def test_the_last_blocks_of_trunk_and_head_compute_what_is_read(tmp_path):
    """Small: 9 patches of which 3 are hidden, two blocks, one of the [CLS] head."""
    def skipped(read: int) -> float:
        return LayerCosts().block(10, 48, 3, 192, read=read).skipped_flop

    assert trained(pretrain_config("small", tmp_path)).skipped_flop == skipped(4) + skipped(3)
    assert trained(pretrain_config("small", tmp_path, early_layers=None)).skipped_flop == skipped(3)
    assert trained(pretrain_config("small", tmp_path, early_layers=2)).skipped_flop == skipped(3), "the head reads all"


def test_recomputing_repeats_the_blocks_and_nothing_else():
    block = LayerCosts().block(10, 32, 4, 128)
    rest = LayerCosts().product(10, 32, 7)
    both = total(block, block, rest)
    assert both.step_flop(True) - both.step_flop(False) == 2 * block.forward_flop
