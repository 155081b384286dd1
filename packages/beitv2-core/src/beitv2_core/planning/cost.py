# SPDX-License-Identifier: Apache-2.0
"""Parameters, work and kept memory of the layers, from their shapes.

What the backward pass keeps is what Paddle's own operations save for their gradients in the formulation a GPU runs
(`layers/`, not the hand-written CPU gradients).  For a block of T tokens, width D, H heads and hidden width F:

    layer norms      their inputs 2 TD; mean and deviation of each token 4 T
    products         their inputs: normalised tokens 2 TD, queries, keys and values 3 TD, attention output TD, GELU TF
    softmax          the weights H T T, read again by the product with the values
    GELU             its input TF
    layer scale      the branch it multiplies, 2 TD; drop path likewise, 2 TD more

in all 18 TD + H T T numbers of 4 bytes with layer scale and F = 4 D.  Under mixed precision O1 the products read
2-byte copies, while the residual stream and the softmax stay in 4 bytes: the attention weights are kept twice, 4 + 2
bytes, and the weights' 2-byte copies are kept as well (Paddle's lists of operations, `paddle/amp/amp_lists.py`).
Recomputed blocks keep their input only, and one block at a time is built up again.
A block of which Q tokens are read keeps the norm's input and output and the keys and values of all tokens, 4 TD, and
the rest of those Q alone: 15 QD + H Q T numbers; besides copies of the weights of queries and of keys and values, which
are slices of one parameter.
`tests/core/planning/test_cost.py` holds the formulas against the tensors Paddle really saves.

One multiplication and one addition are two FLOP; element-wise work is not counted, as is usual.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from ..rel_pos_index import table_rows

FULL = 4  # bytes of a float32


@dataclass(frozen=True)
class Cost:
    """What a part of a model costs; parts are added.

    parameters: numbers; buffers: bytes; forward, backward: FLOP an image; kept: bytes an image that the backward pass
    needs; inside: those of `kept` that recomputing drops; largest_inside: `inside` of the largest block; fixed: bytes
    kept whatever the batch, fixed_recompute: what recomputing adds to them; largest: bytes an image of the largest
    tensor; replayed: FLOP that recomputing repeats; full_flop: FLOP, forward and backward, that mixed precision leaves
    in float32; skipped: FLOP, forward, of tokens that nobody reads, which the official code computes.
    """

    parameters: int = 0
    buffers: int = 0
    forward: float = 0.0
    backward: float = 0.0
    kept: float = 0.0
    inside: float = 0.0
    largest_inside: float = 0.0
    fixed: float = 0.0
    fixed_recompute: float = 0.0
    largest: float = 0.0
    replayed: float = 0.0
    full_flop: float = 0.0
    skipped: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        both = {field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(Cost)}
        for name in ("largest_inside", "largest"):
            both[name] = max(getattr(self, name), getattr(other, name))
        return Cost(**both)

    def frozen(self) -> Cost:
        """The same part without training: nothing is kept, there is no backward pass."""
        return Cost(parameters=self.parameters, buffers=self.buffers, forward=self.forward, largest=self.largest)

    def after_forward(self, batch: int, recompute: bool) -> float:
        """Bytes a batch leaves for the backward pass."""
        if recompute:
            return batch * (self.kept - self.inside) + self.fixed + self.fixed_recompute
        return batch * self.kept + self.fixed

    def at_most(self, batch: int, recompute: bool) -> float:
        """Bytes at the fullest moment of a step: recomputed blocks are built up again one after the other."""
        return self.after_forward(batch, recompute) + (batch * self.largest_inside if recompute else 0.0)

    def step_flop(self, recompute: bool) -> float:
        """FLOP an image of forward and backward."""
        return self.forward + self.backward + (self.replayed if recompute else 0.0)

    def official_flop(self, recompute: bool) -> float:
        """FLOP an image of forward and backward if all tokens were computed."""
        return self.step_flop(recompute) + (4 if recompute else 3) * self.skipped


def total(*costs: Cost) -> Cost:
    """The sum of parts."""
    return sum(costs, Cost())


@dataclass(frozen=True)
class Bricks:
    """The costs of layers, in float32 or under mixed precision (`amp`)."""

    amp: bool = False

    @property
    def half(self) -> int:
        """Bytes of a number that a product reads."""
        return 2 if self.amp else FULL

    def product(self, rows: float, width: int, out: int, *, bias: bool = True, first: bool = False,
                sliced: bool = False) -> Cost:
        """`rows` vectors an image times a weight (width, out).

        first: nothing below it wants a gradient; sliced: the weight is a part of a parameter, of which a copy is kept.
        """
        flop = 2.0 * rows * width * out
        return Cost(parameters=width * out + (out if bias else 0), forward=flop, backward=flop * (1 if first else 2),
                    kept=rows * width * self.half, largest=rows * out * self.half,
                    fixed=float(width * out * self.half) if self.amp or sliced else 0.0)

    def norm(self, tokens: float, width: int) -> Cost:
        """Layer norm: its input, and mean and deviation of every token."""
        return Cost(parameters=2 * width, kept=tokens * width * FULL + 2 * tokens * FULL)

    def block(self, tokens: int, width: int, heads: int, hidden: int, *, qkv_bias: bool = True,
              layer_scale: bool = True, drop_path: bool = False, grid: tuple[int, int] | None = None,
              read: int | None = None) -> Cost:
        """One transformer block; `grid`: it has a relative position bias of its own.

        read: how many of the tokens are read afterwards; only these are computed, None for all.
        """
        asked = tokens if read is None else read
        td, qd, table = tokens * width, asked * width, heads * asked * tokens
        if read is None:
            projected = self.product(tokens, width, 3 * width, bias=False)
        else:
            projected = total(self.product(asked, width, width, bias=False, sliced=True),
                              self.product(tokens, width, 2 * width, bias=False, sliced=True))
        parts = total(
            self.norm(tokens, width),
            projected,
            Cost(parameters=2 * width if qkv_bias else 0, kept=(qd + 2 * td) * self.half,
                 forward=4.0 * asked * td, backward=8.0 * asked * td, largest=table * FULL),
            Cost(kept=float(table * (FULL + 2 if self.amp else FULL))),
            self.product(asked, width, width),
            self.norm(asked, width),
            self.product(asked, width, hidden),
            Cost(kept=asked * hidden * self.half),
            self.product(asked, hidden, width),
            Cost(parameters=2 * width, kept=2.0 * qd * FULL) if layer_scale else Cost(),
            Cost(kept=2.0 * qd * self.half) if drop_path else Cost(),
            self.position_bias(tokens, heads, grid) if grid is not None else Cost(),
        )
        inside = parts.kept - td * FULL
        for_each = (parts.forward - 4.0 * td * width) / asked  # keys and values are made of all tokens
        # Of the weights' copies one block's come back, some MB, which are not counted.
        return replace(parts, inside=inside, largest_inside=inside, replayed=parts.forward,
                       fixed_recompute=-parts.fixed, skipped=(tokens - asked) * for_each)

    def position_bias(self, tokens: int, heads: int, grid: tuple[int, int]) -> Cost:
        """A relative position table and its index."""
        return Cost(parameters=table_rows(grid) * heads, buffers=8 * tokens * tokens)

    def trunk(self, grid: tuple[int, int], *, patch: int, channels: int, width: int, depth: int, heads: int,
              hidden: int, positions: str, norm: bool, qkv_bias: bool = True, layer_scale: bool = False,
              drop_path: float = 0.0, mask_token: bool = False, extra_blocks: int = 0,
              extra_drop_path: bool = False, read: int | None = None, extra_read: int | None = None) -> Cost:
        """A vision transformer up to its last block (`models.backbone`); patch: pixels of one patch.

        norm: it ends with a layer norm, whose parameters are counted here and whose memory where it is read;
        extra_blocks: those of the [CLS] head; read, extra_read: tokens read of the last block of trunk and head, None
        for all.
        """
        patches = grid[0] * grid[1]
        tokens = patches + 1
        own = grid if positions == "relative" else None

        def block(drops: bool, read: int | None) -> Cost:
            return self.block(tokens, width, heads, hidden, qkv_bias=qkv_bias, layer_scale=layer_scale,
                              drop_path=drops, grid=own, read=read)

        blocks = [block(drop_path > 0 and i > 0, read if i == depth - 1 else None) for i in range(depth)]
        blocks += [block(extra_drop_path, extra_read if i == extra_blocks - 1 else None) for i in range(extra_blocks)]
        return total(
            self.product(patches, patch * channels, width, first=True),
            Cost(parameters=width),  # class token
            Cost(parameters=width, kept=float(patches * width * self.half)) if mask_token else Cost(),
            Cost(parameters=tokens * width) if positions == "absolute" else Cost(),
            # The shared bias is an input of the blocks: recomputing keeps it, for trunk and [CLS] head each.
            replace(self.position_bias(tokens, heads, grid),
                    fixed_recompute=float((2 if extra_blocks else 1) * heads * tokens * tokens * FULL))
            if positions == "shared_relative" else Cost(),
            *blocks,
            Cost(parameters=2 * width) if norm else Cost(),
        )

    def final_norm(self, tokens: int, width: int) -> Cost:
        """The memory of the trunk's last norm, its parameters being counted with the trunk."""
        return replace(self.norm(tokens, width), parameters=0)

    def softmax_loss(self, rows: float, classes: int) -> Cost:
        """Cross-entropy: it keeps the probabilities, in 4 bytes."""
        return Cost(kept=rows * classes * FULL, largest=rows * classes * FULL)

    def convolution(self, pixels: float, channels: int, out: int, kernel: int, *, bias: bool = False) -> Cost:
        """A convolution that keeps the size; `pixels` of the map."""
        cost = self.product(pixels, channels * kernel**2, out, bias=bias)
        return replace(cost, kept=pixels * channels * self.half)

    def transposed(self, pixels: float, channels: int, out: int, kernel: int = 2) -> Cost:
        """A transposed convolution, stride = kernel; mixed precision does not speed it up: it is on no list."""
        cost = self.in_full(Bricks().product(pixels, channels, out * kernel**2, bias=False))
        return replace(cost, parameters=cost.parameters + out)

    def in_full(self, cost: Cost) -> Cost:
        """A part, counted in float32, that mixed precision leaves so."""
        return replace(cost, full_flop=cost.forward + cost.backward if self.amp else 0.0)
