# SPDX-License-Identifier: Apache-2.0
"""Intermediate values of a model's layers, by name, through hooks: no forward pass is written a second time."""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import paddle
from paddle import nn

from beitv2_core.errors import ShapeError


class Point(NamedTuple):
    """The first input (side "in") or the output ("out") of a layer.

    names: one for every time that the layer is called in a forward pass, in this order.
    """

    layer: nn.Layer
    side: str
    names: tuple[str, ...]


@contextlib.contextmanager
def recorded(points: Sequence[Point], patterns: Sequence[str] = ()) -> Iterator[dict[str, paddle.Tensor]]:
    """A dictionary {name: tensor} that fills while the layers run.

    patterns: which names, matched as names of files are, default all; other layers get no hook.
    Raises ShapeError for a pattern that fits no name.
    """
    names = [name for point in points for name in point.names]
    unknown = [pattern for pattern in patterns if not fnmatch.filter(names, pattern)]
    if unknown:
        raise ShapeError(f"intermediates: no name fits {', '.join(map(repr, unknown))}. Names: {', '.join(names)}.")
    wanted = {name for pattern in patterns or ("*",) for name in fnmatch.filter(names, pattern)}
    out: dict[str, paddle.Tensor] = {}
    with contextlib.ExitStack() as stack:
        for point in points:
            if not wanted.isdisjoint(point.names):
                stack.callback(_listen(point, wanted, out).remove)
        yield out


def _listen(point: Point, wanted: set[str], out: dict[str, paddle.Tensor]) -> Any:
    """Register the hook of a point; returns Paddle's handle on it."""
    names = itertools.cycle(point.names)

    def keep(tensor: paddle.Tensor) -> None:
        name = next(names)
        if name in wanted:
            out[name] = tensor

    # A hook must return None: what it returns replaces what the layer was given or gave.
    if point.side == "in":
        return point.layer.register_forward_pre_hook(lambda layer, given: keep(given[0]))
    return point.layer.register_forward_post_hook(lambda layer, given, result: keep(result))
