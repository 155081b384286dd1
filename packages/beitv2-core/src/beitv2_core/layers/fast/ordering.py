# SPDX-License-Identifier: Apache-2.0
"""The second operand of a product or convolution in the order that oneDNN (`onednn.py`) wants it.

Source: oneDNN 3.2 (Paddle 2.6) and 3.6 (Paddle 3.3), dnnl.h and dnnl_types.h; the numbers used are equal in both.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from beitv2_core.layers.fast.onednn import (
    _FLOAT32,
    _MAX_AXES,
    _X,
    _Y,
    _check,
    _describe,
    _Handle,
    _loaded,
    _Primitive,
)

_ANY_FORMAT, _QUERY_WEIGHTS = 1, 131  # dnnl_format_tag_t, dnnl_query_t


@functools.cache
def any_order(sizes: tuple[int, ...], kind: int = _FLOAT32) -> Any:
    """The description of a tensor whose order is left to the primitive."""
    description = _Handle()
    _check(_loaded().calls.dnnl_memory_desc_create_with_tag(
        ctypes.byref(description), len(sizes), (ctypes.c_int64 * _MAX_AXES)(*sizes), kind, _ANY_FORMAT),
        f"a tensor of shape {sizes} in any order")
    return description


def wanted_order(description: Any) -> tuple[Any, int]:
    """How the described primitive wants its weight, and the bytes of it; valid as long as the description."""
    ask, size_of = _loaded().calls.dnnl_primitive_desc_query_md, _loaded().calls.dnnl_memory_desc_get_size
    ask.restype, size_of.restype = ctypes.c_void_p, ctypes.c_size_t
    wanted = _Handle(ask(description, _QUERY_WEIGHTS, 0))
    return wanted, size_of(wanted)


def reordering(given: Any, wanted: Any, bfloat16: tuple[int, ...] = ()) -> _Primitive:
    """The primitive that writes a tensor in the order `wanted`; bfloat16: as `_Primitive`."""
    engine = _loaded().engine
    return _Primitive(_describe("reorder", given, engine, wanted, engine, None), [(_X, given), (_Y, wanted)],
                      "the order of a weight", bfloat16=bfloat16)
