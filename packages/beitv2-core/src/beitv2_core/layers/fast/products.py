# SPDX-License-Identifier: Apache-2.0
"""Mixed precision: on a GPU Paddle's, on the CPU products of numbers rounded to bfloat16 with sums in float32.

On the CPU the operands of products are rounded, nothing else: weights, moments, normalisation, softmax, losses and
codes stay float32.  The backward pass of what was computed in bfloat16 rounds its products too, wherever it runs.

Shape suffixes: `layers/__init__.py`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import warnings
from collections.abc import Callable
from typing import Any

import paddle

from beitv2_core.errors import ConfigError
from beitv2_core.layers.fast import onednn
from beitv2_core.layers.fast.bfloat16 import as_bfloat16, as_float32, matmul_bfloat16
from beitv2_core.runtime import cpu_flags, fast_bfloat16, has_bfloat16

#: environment variable: 1 computes bfloat16 products by the float32 units, of rounded numbers, on any processor;
#: 0 by the bfloat16 units, also where those are slower
EMULATE = "BEITV2_EMULATE_BFLOAT16"

_chosen = threading.local()


class mixed_precision:
    """What runs inside is computed in mixed precision: `with mixed_precision("bf16"): model(images)`.

    amp: "off": float32, whatever surrounds it.  "bf16": on a GPU Paddle's O1, on the CPU products in bfloat16.
    "fp16": on a GPU Paddle's O1.
    Raises ConfigError for another name, and where this device does not compute it (`why_not`).
    """

    def __init__(self, amp: str):
        reason = why_not(amp)
        if reason is not None:
            raise ConfigError(f"{amp}: {reason} Use float32.")
        self.amp, self._on_gpu = amp, _on_gpu()
        if amp == "bf16" and not self._on_gpu and has_bfloat16() and not fast_bfloat16():
            _say_that_it_gains_nothing()
        self._before: list[bool] = []
        self._guard: Any = contextlib.nullcontext()
        if self._on_gpu and paddle.in_dynamic_mode():  # Paddle 2 refuses it in a static graph, which is float32
            self._guard = paddle.amp.auto_cast(enable=amp != "off", level="O1",
                                               dtype="float16" if amp == "fp16" else "bfloat16")

    def __enter__(self) -> mixed_precision:
        self._before.append(rounding())
        _chosen.bfloat16 = self.amp == "bf16" and not self._on_gpu
        self._guard.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._guard.__exit__(*exc)
        _chosen.bfloat16 = self._before.pop()


def in_this_precision(work: Callable[..., Any]) -> Callable[..., Any]:
    """`work`, computed as it would be here and now, wherever it is called: what is recomputed is called later."""
    if not rounding():
        return work

    def computed(*arguments: Any) -> Any:
        with mixed_precision("bf16"):
            return work(*arguments)

    return computed


@functools.cache
def _say_that_it_gains_nothing() -> None:
    warnings.warn("bf16: this processor multiplies bfloat16 numbers more slowly than float32 ones (it hides or lacks "
                  "amx_bf16). Numbers are rounded to bfloat16 and multiplied as float32: no faster than float32.",
                  stacklevel=3)


def _on_gpu() -> bool:
    return str(paddle.device.get_device()).startswith("gpu")


def why_not(amp: str) -> str | None:
    """A sentence on why this mixed precision cannot be computed on this device; None where it can.

    Raises ConfigError for a name other than "off", "bf16" and "fp16".
    """
    if amp not in ("off", "bf16", "fp16"):
        raise ConfigError(f"mixed precision is {amp!r}; expected 'off', 'bf16' or 'fp16'.")
    if amp == "off" or _on_gpu():
        return None
    return why_no_bfloat16() if amp == "bf16" else "only a GPU computes float16."


def rounding() -> bool:
    """True where products are to be computed in bfloat16: on the CPU, inside `mixed_precision("bf16")`."""
    return getattr(_chosen, "bfloat16", False)


def why_no_bfloat16() -> str | None:
    """A sentence on why bfloat16 products cannot be computed here; None where they can."""
    if not has_bfloat16() and not _by_float32_units():
        known = ", ".join(sorted(flag for flag in cpu_flags() if flag.startswith(("avx2", "avx512f")))) or "none known"
        return ("this processor does not multiply bfloat16 numbers (it needs avx512_bf16 or amx_bf16; of its vector "
                f"units: {known}).")
    if not onednn.usable():
        return "Paddle's oneDNN library, which multiplies them, is not usable."
    return None


def _by_float32_units() -> bool:
    """True where products of rounded numbers are float32 ones: the values are the same up to the order of sums."""
    wanted = os.environ.get(EMULATE, "")
    return wanted == "1" or wanted != "0" and has_bfloat16() and not fast_bfloat16()


def by_bfloat16_units(rounded: bool) -> bool:
    """True where products of rounded numbers are oneDNN's, which add a bias and write bfloat16 at no cost."""
    return rounded and not _by_float32_units()


def operand(x: paddle.Tensor, bfloat16: bool) -> paddle.Tensor:
    """x as products in bfloat16 take it, or x itself; what several products take is rounded once."""
    if not bfloat16 or x.dtype == paddle.bfloat16:
        return x
    return as_bfloat16(x)


def product(x: paddle.Tensor, y: paddle.Tensor, bfloat16: bool, *, transpose_x: bool = False,
            transpose_y: bool = False) -> paddle.Tensor:
    """x @ y, float32, of tensors (..., M, K) and (..., K, N) with equal first axes, or x without any; no gradient.

    transpose_x, transpose_y: the last two axes of that tensor are (K, M), (N, K).
    """
    with paddle.no_grad():
        if not bfloat16:
            return paddle.matmul(x, y, transpose_x, transpose_y)
        x = operand(x, True)
        if x.ndim < y.ndim:  # repeated, so that the first axes are equal
            x = x.expand([*y.shape[:-2], *x.shape])
        if _by_float32_units():
            return paddle.matmul(as_float32(x), as_float32(operand(y, True)), transpose_x, transpose_y)
        return matmul_bfloat16(x, y, transpose_x, transpose_y)


def product_and_bias(x: paddle.Tensor, weight_DO: paddle.Tensor, bias_O: paddle.Tensor | None, bfloat16: bool, *,
                     rounds: bool = False) -> paddle.Tensor:
    """`x @ weight + bias` of x (..., D) in the form that is fast on the CPU; records no gradient.

    rounds: give the result as products in bfloat16 take it, where they are computed so.
    """
    x_RD, sizes = x.reshape([-1, x.shape[-1]]), [*x.shape[:-1], weight_DO.shape[1]]
    if by_bfloat16_units(bfloat16):
        with paddle.no_grad():
            made = paddle.empty([x_RD.shape[0], sizes[-1]], dtype="bfloat16") if rounds else None
            return matmul_bfloat16(operand(x_RD, True), weight_DO, False, False, bias=bias_O, into=made).reshape(sizes)
    made = product(x_RD, weight_DO, bfloat16)
    if bias_O is not None:
        made = onednn.add_(made, bias_O) if onednn.usable() else made.add_(bias_O.expand(made.shape))
    return operand(made, rounds and bfloat16).reshape(sizes)


def sum_over_rows(x_RD: paddle.Tensor) -> paddle.Tensor:
    """Column sums (D,) of a matrix (R, D), as a product with ones: Paddle's CPU reduction is single-threaded."""
    ones = paddle.ones([1, x_RD.shape[0]], dtype=x_RD.dtype)
    return product(ones, x_RD, x_RD.dtype == paddle.bfloat16).reshape([-1])
