# SPDX-License-Identifier: Apache-2.0
"""Compute and memory of the layers, from their shapes.  Parameters are counted in the built model.

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

FLOAT32_BYTES = 4  # bytes of a float32


@dataclass(frozen=True)
class Cost:
    """What a part of a model costs; parts are added.

    For an image: forward_flop, backward_flop; kept_bytes, which the backward pass needs; recomputed_bytes, those of
    them that recomputing drops, and of the largest block; largest_tensor_bytes; replayed_flop, which recomputing
    repeats; float32_flop, forward and backward, which mixed precision leaves in float32; skipped_flop, forward, of
    tokens whose output is not needed, which the official code computes.
    For any batch: buffer_bytes; fixed_bytes that are kept, fixed_recompute_bytes: what recomputing adds to them.
    """

    buffer_bytes: int = 0
    forward_flop: float = 0.0
    backward_flop: float = 0.0
    kept_bytes: float = 0.0
    recomputed_bytes: float = 0.0
    largest_recomputed_bytes: float = 0.0
    fixed_bytes: float = 0.0
    fixed_recompute_bytes: float = 0.0
    largest_tensor_bytes: float = 0.0
    replayed_flop: float = 0.0
    float32_flop: float = 0.0
    skipped_flop: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        both = {field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(Cost)}
        for name in ("largest_recomputed_bytes", "largest_tensor_bytes"):
            both[name] = max(getattr(self, name), getattr(other, name))
        return Cost(**both)

    def frozen(self) -> Cost:
        """The same part without training: nothing is kept, there is no backward pass."""
        return Cost(buffer_bytes=self.buffer_bytes, forward_flop=self.forward_flop,
                    largest_tensor_bytes=self.largest_tensor_bytes)

    def bytes_after_forward(self, batch: int, recompute: bool) -> float:
        """Bytes a batch leaves for the backward pass."""
        if recompute:
            return batch * (self.kept_bytes - self.recomputed_bytes) + self.fixed_bytes + self.fixed_recompute_bytes
        return batch * self.kept_bytes + self.fixed_bytes

    def peak_bytes(self, batch: int, recompute: bool) -> float:
        """Bytes at the fullest moment of a step: recomputed blocks are built up again one after the other."""
        rebuilt = batch * self.largest_recomputed_bytes if recompute else 0.0
        return self.bytes_after_forward(batch, recompute) + rebuilt

    def step_flop(self, recompute: bool) -> float:
        """FLOP an image of forward and backward."""
        return self.forward_flop + self.backward_flop + (self.replayed_flop if recompute else 0.0)

    def official_flop(self, recompute: bool) -> float:
        """FLOP an image of forward and backward if all tokens were computed."""
        return self.step_flop(recompute) + (4 if recompute else 3) * self.skipped_flop


def total(*costs: Cost) -> Cost:
    """The sum of parts."""
    return sum(costs, Cost())


@dataclass(frozen=True)
class LayerCosts:
    """The costs of layers, in float32 or under mixed precision (`amp`)."""

    amp: bool = False

    @property
    def half(self) -> int:
        """Bytes of a number that a product reads."""
        return 2 if self.amp else FLOAT32_BYTES

    def product(self, rows: float, width: int, out: int, *, first: bool = False, sliced: bool = False) -> Cost:
        """`rows` vectors an image times a weight (width, out).

        first: its input needs no gradient; sliced: the weight is a part of a parameter, of which a copy is kept.
        """
        flop = 2.0 * rows * width * out
        return Cost(forward_flop=flop, backward_flop=flop * (1 if first else 2),
                    kept_bytes=rows * width * self.half, largest_tensor_bytes=rows * out * self.half,
                    fixed_bytes=float(width * out * self.half) if self.amp or sliced else 0.0)

    def norm(self, tokens: float, width: int) -> Cost:
        """Layer norm: its input, and mean and deviation of every token."""
        return Cost(kept_bytes=tokens * width * FLOAT32_BYTES + 2 * tokens * FLOAT32_BYTES)

    def block(self, tokens: int, width: int, heads: int, hidden: int, *, layer_scale: bool = True,
              drop_path: bool = False, own_positions: bool = False, read: int | None = None) -> Cost:
        """One transformer block; own_positions: it has a relative position bias of its own.

        read: how many of the tokens are read afterwards; only these are computed, None for all.
        """
        asked = tokens if read is None else read
        td, qd, table = tokens * width, asked * width, heads * asked * tokens
        if read is None:
            projected = self.product(tokens, width, 3 * width)
        else:
            projected = total(self.product(asked, width, width, sliced=True),
                              self.product(tokens, width, 2 * width, sliced=True))
        parts = total(
            self.norm(tokens, width),
            projected,
            Cost(kept_bytes=(qd + 2 * td) * self.half, forward_flop=4.0 * asked * td, backward_flop=8.0 * asked * td,
                 largest_tensor_bytes=table * FLOAT32_BYTES),
            Cost(kept_bytes=float(table * (FLOAT32_BYTES + 2 if self.amp else FLOAT32_BYTES))),
            self.product(asked, width, width),
            self.norm(asked, width),
            self.product(asked, width, hidden),
            Cost(kept_bytes=asked * hidden * self.half),
            self.product(asked, hidden, width),
            Cost(kept_bytes=2.0 * qd * FLOAT32_BYTES) if layer_scale else Cost(),
            Cost(kept_bytes=2.0 * qd * self.half) if drop_path else Cost(),
            self.position_bias(tokens) if own_positions else Cost(),
        )
        inside = parts.kept_bytes - td * FLOAT32_BYTES
        for_each = (parts.forward_flop - 4.0 * td * width) / asked  # keys and values are made of all tokens
        # Of the weights' copies one block's come back, some MB, which are not counted.
        return replace(parts, recomputed_bytes=inside, largest_recomputed_bytes=inside,
                       replayed_flop=parts.forward_flop,
                       fixed_recompute_bytes=-parts.fixed_bytes, skipped_flop=(tokens - asked) * for_each)

    def position_bias(self, tokens: int) -> Cost:
        """The index into a relative position table."""
        return Cost(buffer_bytes=8 * tokens * tokens)

    def trunk(self, grid: tuple[int, int], *, patch: int, channels: int, width: int, depth: int, heads: int,
              hidden: int, positions: str, layer_scale: bool = False, drop_path: float = 0.0, mask_token: bool = False,
              extra_blocks: int = 0, extra_drop_path: bool = False, read: int | None = None,
              extra_read: int | None = None) -> Cost:
        """A vision transformer up to its last block (`models.backbone`); patch: pixels of one patch.

        The memory of its final norm is counted where that is read.  extra_blocks: those of the [CLS] head; read,
        extra_read: tokens read of the last block of trunk and head, None for all.
        """
        patches = grid[0] * grid[1]
        tokens = patches + 1

        def block(drops: bool, read: int | None) -> Cost:
            return self.block(tokens, width, heads, hidden, layer_scale=layer_scale, drop_path=drops,
                              own_positions=positions == "relative", read=read)

        blocks = [block(drop_path > 0 and i > 0, read if i == depth - 1 else None) for i in range(depth)]
        blocks += [block(extra_drop_path, extra_read if i == extra_blocks - 1 else None) for i in range(extra_blocks)]
        return total(
            self.product(patches, patch * channels, width, first=True),
            Cost(kept_bytes=float(patches * width * self.half)) if mask_token else Cost(),
            # The shared bias is an input of the blocks: recomputing keeps it, for trunk and [CLS] head each.
            replace(self.position_bias(tokens),
                    fixed_recompute_bytes=float((2 if extra_blocks else 1) * heads * tokens * tokens * FLOAT32_BYTES))
            if positions == "shared_relative" else Cost(),
            *blocks,
        )

    def softmax_loss(self, rows: float, classes: int) -> Cost:
        """Cross-entropy: it keeps the probabilities, in 4 bytes."""
        return Cost(kept_bytes=rows * classes * FLOAT32_BYTES, largest_tensor_bytes=rows * classes * FLOAT32_BYTES)

    def convolution(self, pixels: float, channels: int, out: int, kernel: int) -> Cost:
        """A convolution that keeps the size; `pixels` of the map."""
        cost = self.product(pixels, channels * kernel**2, out)
        return replace(cost, kept_bytes=pixels * channels * self.half)

    def transposed(self, pixels: float, channels: int, out: int, kernel: int = 2) -> Cost:
        """A transposed convolution, stride = kernel; mixed precision does not speed it up: it is on no list."""
        return self.without_amp(LayerCosts().product(pixels, channels, out * kernel**2))

    def without_amp(self, cost: Cost) -> Cost:
        """A part, counted in float32, that mixed precision leaves so."""
        return replace(cost, float32_flop=cost.forward_flop + cost.backward_flop if self.amp else 0.0)
