# SPDX-License-Identifier: Apache-2.0
"""What a block's layers say holds on the CPU too: the fast form runs for exactly the layers it was written for."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from beitv2_core.layers import block as block_file
from beitv2_core.layers.attention import Attention
from beitv2_core.layers.block import Block, Mlp
from beitv2_core.layers.drop_path import DropPath
from beitv2_core.layers.fast.layer_norm import LayerNorm
from beitv2_core.layers.fast.linear import Linear

QUERIES = paddle.to_tensor([[0, 2], [3, 1]])
X = np.random.RandomState(0).randn(2, 5, 12).astype("float32")


def block_of(**settings) -> Block:
    paddle.seed(1)
    block = Block(12, 3, init_values=0.1, grid=(2, 2), **settings)
    for parameter in block.parameters():
        parameter.set_value(0.4 * paddle.randn(parameter.shape))
    block.eval()
    return block


def answer(block, query_index=None):
    return block(paddle.to_tensor(X), None, query_index).numpy()


def written_out(block, act=F.gelu):
    """The block in plain operations."""
    x, attn, mlp = paddle.to_tensor(X), block.attn, block.mlp
    normed = F.layer_norm(x, [12], block.norm1.weight, block.norm1.bias, 1e-6)
    q, k, v = (part.reshape([2, 5, 3, 4]).transpose([0, 2, 1, 3])
               for part in (paddle.matmul(normed, attn.qkv.weight) + attn.qkv_bias()).split(3, -1))
    probs = F.softmax(paddle.matmul(q, k, transpose_y=True) / 2 + attn.total_bias(None), -1)
    out = paddle.matmul(probs, v).transpose([0, 2, 1, 3]).reshape([2, 5, 12])
    x = x + block.gamma_1 * (paddle.matmul(out, attn.proj.weight) + attn.proj.bias)
    hidden = F.layer_norm(x, [12], block.norm2.weight, block.norm2.bias, 1e-6)
    hidden = act(paddle.matmul(hidden, mlp.fc1.weight) + mlp.fc1.bias)
    return (x + block.gamma_2 * (paddle.matmul(hidden, mlp.fc2.weight) + mlp.fc2.bias)).numpy()


@pytest.fixture
def fast_runs(monkeypatch):
    """How often the fast form ran."""
    runs = []
    original = block_file.block_on_cpu
    monkeypatch.setattr(block_file, "block_on_cpu", lambda *args: runs.append(1) or original(*args))
    return runs


def test_the_fast_form_runs_for_a_block_as_it_is_built_and_equals_the_plain_one(fast_runs, monkeypatch):
    fast, expected = answer(block_of()), written_out(block_of())
    assert fast_runs == [1]
    np.testing.assert_allclose(fast, expected, atol=3e-6)
    monkeypatch.setenv("BEITV2_PLAIN_LAYERS", "1")
    np.testing.assert_allclose(answer(block_of()), expected, atol=3e-6)
    assert fast_runs == [1], "the switch turns it off"


LAYERS = ("attn", "attn.proj", "attn.attn_drop", "mlp", "mlp.fc1", "mlp.act", "mlp.fc2", "mlp.drop", "norm1", "norm2",
          "drop_path")


@pytest.mark.parametrize("queries", [None, QUERIES], ids=["all tokens", "some queries"])
@pytest.mark.parametrize("name", [*LAYERS, "attn.qkv"])
def test_a_hook_on_any_layer_fires(name, queries):
    before, called = answer(block_of(), queries), []
    block = block_of()
    layer = dict(block.named_sublayers())[name]
    hooks = [layer.register_forward_post_hook(lambda layer, given, out: called.append("post")),
             layer.register_forward_pre_hook(lambda layer, given: called.append("pre"))]
    if name == "attn.qkv":  # read, not called, unless somebody listens
        assert type(layer) is nn.Linear
    np.testing.assert_allclose(answer(block, queries), before, atol=3e-6)
    assert set(called) == {"pre", "post"}
    for hook in hooks:
        hook.remove()
    called.clear()
    np.testing.assert_array_equal(answer(block, queries), before)
    assert not called


def test_what_a_hook_returns_counts():
    block = block_of()
    block.mlp.register_forward_post_hook(lambda layer, given, out: out * 0)
    x = paddle.to_tensor(X)
    expected = x + block.gamma_1 * block.attn(block.norm1(x))
    np.testing.assert_allclose(answer(block), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize(("layer", "function"), [
    (nn.Silu(), F.silu), (nn.GELU(approximate=True), lambda x: F.gelu(x, approximate=True)), (nn.ReLU(), F.relu)])
def test_another_activation_is_obeyed(layer, function):
    block = block_of()
    block.mlp.act = layer
    np.testing.assert_allclose(answer(block), written_out(block, function), atol=3e-6)
    assert np.abs(answer(block) - answer(block_of())).max() > 1e-4


class HalfAttention(Attention):
    def forward(self, x, bias=None, query_index=None):
        return super().forward(x, bias, query_index) * 0.5


class TwiceMlp(Mlp):
    def forward(self, x):
        return super().forward(x) * 2


class LoudLinear(Linear):
    def forward(self, input):
        return super().forward(input) + 1


class LoudNorm(LayerNorm):
    def forward(self, input):
        return super().forward(input) + 1


class HalfPath(DropPath):
    def forward(self, x):
        return x * 0.5


class HalfBlock(Block):
    def compose(self, x, bias=None, query_index=None):
        return super().compose(x, bias, query_index) * 0.5


def replaced(name, made):
    block = block_of()
    parent, _, last = name.rpartition(".")
    parent = dict(block.named_sublayers(include_self=True))[parent]
    made.set_state_dict(getattr(parent, last).state_dict())
    made.eval()
    setattr(parent, last, made)
    return block


REPLACED = {"attn": lambda: HalfAttention(12, 3, grid=(2, 2)), "attn.proj": lambda: LoudLinear(12, 12),
            "attn.qkv": lambda: LoudLinear(12, 36, bias_attr=False), "mlp": lambda: TwiceMlp(12, 48),
            "mlp.fc1": lambda: LoudLinear(12, 48), "mlp.fc2": lambda: LoudLinear(48, 12),
            "norm1": lambda: LoudNorm(12), "norm2": lambda: LoudNorm(12), "drop_path": HalfPath}


@pytest.mark.parametrize("name", REPLACED)
def test_a_subclass_in_the_place_of_a_layer_is_obeyed_and_learns(name, monkeypatch):
    block = replaced(name, REPLACED[name]())
    ours = answer(block)
    assert np.abs(ours - answer(block_of())).max() > 1e-3
    monkeypatch.setenv("BEITV2_PLAIN_LAYERS", "1")
    np.testing.assert_allclose(ours, answer(block), atol=3e-6)
    monkeypatch.undo()
    block(paddle.to_tensor(X)).sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())


def test_a_subclassed_block_and_a_forward_put_into_a_layer_are_obeyed():
    paddle.seed(1)
    half = HalfBlock(12, 3, init_values=0.1, grid=(2, 2))
    half.set_state_dict(block_of().state_dict())
    half.eval()
    np.testing.assert_allclose(answer(half), 0.5 * answer(block_of()), atol=3e-6)
    block = block_of()
    block.mlp.forward = lambda x: x * 0
    assert np.abs(answer(block) - answer(block_of())).max() > 1e-3


def test_a_linear_without_bias_is_no_error(fast_runs):
    block = block_of()
    block.mlp.fc1 = Linear(12, 48, bias_attr=False)
    assert np.isfinite(answer(block)).all() and not fast_runs


def test_the_queries_of_a_replaced_projection_are_those_of_all_tokens():
    block = replaced("attn.qkv", LoudLinear(12, 36, bias_attr=False))
    some = np.take_along_axis(answer(block), QUERIES.numpy()[:, :, None], 1)
    np.testing.assert_allclose(answer(block, QUERIES), some, atol=3e-6)
