# SPDX-License-Identifier: Apache-2.0
"""Products of attention's heads on the CPU, for `cpu_block.py`.

Queries, keys and values come from a linear map as one matrix (B * T, count * H * E).  The float32 products are fast
only on heads that lie one after the other (count, B, H, T, E), so the matrix is laid out anew and joined again.  The
bfloat16 units of Paddle 3 take the heads where they lie in the matrix, and write them there (`bfloat16.py`).

The functions record no gradient.  Shape suffixes: `layers/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Union

import paddle

from beitv2_core.layers.fast import onednn
from beitv2_core.layers.fast.bfloat16 import Heads, matmul_bfloat16
from beitv2_core.layers.fast.layout import join_heads, permute
from beitv2_core.layers.fast.products import by_bfloat16_units, operand, product

Group = Union[paddle.Tensor, Heads]  # heads (B, H, T, E)


class HeadProduct(NamedTuple):
    """factor * (x @ y) of heads."""

    x: Group
    y: Group
    transpose_x: bool = False
    factor: float = 1.0


def stay_in_matrix(rounded: bool) -> bool:
    """True where products take heads where they lie; Paddle 2's oneDNN has only reference code for the scores so."""
    return by_bfloat16_units(rounded) and not paddle.__version__.startswith("2.")


def lay_out(matrix_RO: paddle.Tensor, count: int, batch: int, heads: int, rounded: bool) -> paddle.Tensor:
    """A float32 or bfloat16 matrix (B * T, count * H * E) as `groups` reads it: what to keep for the backward pass.

    The matrix itself in bfloat16, or (count, B, H, T, E); of the latter the matrix must be float32.
    """
    if stay_in_matrix(rounded):
        return operand(matrix_RO, True)
    rows, inner = matrix_RO.shape
    parts = matrix_RO.reshape([batch, rows // batch, count, heads, inner // (count * heads)])
    return operand(permute(parts, [2, 0, 3, 1, 4]), rounded)


def groups(laid_out: paddle.Tensor, count: int, batch: int, heads: int) -> list[Group]:
    """The groups of heads of what `lay_out` gave, in its memory.

    What is kept is the whole: few large tensors leave the allocator fewer useless holes.  `unbind` would copy, and
    Paddle has no public way to a part that does not.
    """
    if laid_out.ndim == 2:
        return [Heads(laid_out, count, at, batch, heads) for at in range(count)]
    return [laid_out._slice(at, at + 1).squeeze(0) for at in range(count)]


def multiply_heads(x: Group, y: Group, rounded: bool, *, transpose_x: bool = False, transpose_y: bool = False,
                   factor: float = 1.0, plus: paddle.Tensor | None = None) -> paddle.Tensor:
    """factor * (x @ y) + plus (B, H, M, N), float32, of heads and of tensors with their first axes.

    transpose_x, transpose_y: as `product`.  plus: (1 or B, H, M, N).
    """
    if isinstance(x, Heads) or isinstance(y, Heads):
        with paddle.no_grad():
            return matmul_bfloat16(_operand(x), _operand(y), transpose_x, transpose_y, factor=factor, plus=plus)
    if factor != 1 and not rounded:  # x is a small part of what the product gives
        x, factor = onednn.multiply(x, _number(factor)), 1.0
    made = _scale_(product(x, y, rounded, transpose_x=transpose_x, transpose_y=transpose_y), factor)
    return made if plus is None else onednn.add_(made, plus)


def join_products(products: Sequence[HeadProduct], rounded: bool) -> paddle.Tensor:
    """Products that give heads, as one matrix (B * T, count * H * E): bfloat16 where heads stay in it."""
    if not stay_in_matrix(rounded):
        return join_heads(*(_scale_(product(one.x, one.y, rounded, transpose_x=one.transpose_x), one.factor)
                            for one in products))
    first, count = products[0], len(products)
    batch, heads, tokens = first.x.shape[0], first.x.shape[1], first.x.shape[-1 if first.transpose_x else -2]
    head_width = first.y.shape[-1]
    made = paddle.empty([batch * tokens, count * heads * head_width], dtype="bfloat16")
    with paddle.no_grad():
        for at, (x, y, transpose_x, factor) in enumerate(products):
            matmul_bfloat16(_operand(x), _operand(y), transpose_x, False, factor=factor,
                            into=Heads(made, count, at, batch, heads))
    return made


def _operand(x: Group) -> Group:
    return x if isinstance(x, Heads) else operand(x, True)


def _scale_(x: paddle.Tensor, factor: float) -> paddle.Tensor:
    """x * factor, in the memory of x."""
    return x if factor == 1 else onednn.multiply_(x, _number(factor))


def _number(factor: float) -> paddle.Tensor:
    return paddle.full([1], factor, dtype="float32")
